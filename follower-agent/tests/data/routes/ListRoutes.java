// Prints every REST route of an OpenSearch node with the distribution's modules, one `METHOD path` a line, sorted:
//     java -cp <the server's jars and this class> ListRoutes path.home=/tmp/home http.port=… transport.port=…
// The settings are `ShardlineNode`'s (deploy/dev/servers/opensearch). The lists beside this file were made so.

import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.Iterator;
import java.util.Map;
import java.util.TreeSet;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.http.HttpServerTransport;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;

public final class ListRoutes {
    public static void main(String[] arguments) throws Exception {
        Settings.Builder builder = Settings.builder();
        for (String argument : arguments) {
            int equals = argument.indexOf('=');
            builder.put(argument.substring(0, equals), argument.substring(equals + 1));
        }
        Settings settings = builder.build();
        Path config = Path.of(settings.get("path.home"), "config");
        Files.createDirectories(config);
        Environment environment =
            InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), config, () -> "routes");
        Class<?> type = Class.forName("ShardlineNode");
        Method modules = type.getDeclaredMethod("modules");
        modules.setAccessible(true);
        Constructor<?> constructor = type.getDeclaredConstructor(Environment.class, Collection.class);
        constructor.setAccessible(true);
        Node node = (Node) constructor.newInstance(environment, modules.invoke(null));
        Method injector = Node.class.getDeclaredMethod("injector");
        injector.setAccessible(true);
        Object found = injector.invoke(node);
        Method getInstance = found.getClass().getMethod("getInstance", Class.class);
        getInstance.setAccessible(true);
        Object transport = getInstance.invoke(found, HttpServerTransport.class);
        TreeSet<String> routes = new TreeSet<>();
        Object trie = read(read(transport, "dispatcher"), "handlers");
        collect(read(trie, "rootValue"), routes);
        walk(read(trie, "root"), routes);
        routes.forEach(System.out::println);
        node.close();
        System.exit(0);
    }

    private static void walk(Object trieNode, TreeSet<String> routes) throws Exception {
        collect(read(trieNode, "value"), routes);
        for (Object child : ((Map<?, ?>) read(trieNode, "children")).values()) {
            walk(child, routes);
        }
    }

    /** `MethodHandlers`: its path and, by method, its handlers. */
    private static void collect(Object handlers, TreeSet<String> routes) throws Exception {
        if (handlers == null) {
            return;
        }
        for (Object method : ((Map<?, ?>) read(handlers, "methodHandlers")).keySet()) {
            routes.add(method + " " + read(handlers, "path"));
        }
    }

    private static Object read(Object owner, String name) throws Exception {
        for (Class<?> type = owner.getClass(); type != null; type = type.getSuperclass()) {
            try {
                Field field = type.getDeclaredField(name);
                field.setAccessible(true);
                return field.get(owner);
            } catch (NoSuchFieldException above) {
                // Declared further up.
            }
        }
        throw new NoSuchFieldException(name + " of " + owner.getClass());
    }
}
