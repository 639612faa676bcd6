// One Kafka broker and controller: formats its log folders when they are new, then runs, in one JVM:
//     java -cp <jars> ShardlineBroker <cluster id> <server.properties>

import kafka.Kafka;
import kafka.tools.StorageTool;

public final class ShardlineBroker {
    public static void main(String[] arguments) {
        if (arguments.length != 2) {
            System.err.println("usage: ShardlineBroker <cluster id> <server.properties>");
            System.exit(2);
        }
        String[] format = {"format", "--ignore-formatted", "-t", arguments[0], "-c", arguments[1]};
        int status = StorageTool.execute(format, System.out);
        if (status != 0) {
            System.err.println("formatting the log folders failed with status " + status);
            System.exit(status);
        }
        Kafka.main(new String[] {arguments[1]});
    }
}
