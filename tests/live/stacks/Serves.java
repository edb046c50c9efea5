// Serves `/spin/MS` and `/rest/MS` in three nested methods, on threads of a pool.

import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

public class Serves {
    static long inner(long ms, boolean rests) throws InterruptedException {
        if (rests) {
            Thread.sleep(ms);
            return 0;
        }
        long end = System.nanoTime() + ms * 1_000_000;
        long sum = 0;
        while (System.nanoTime() < end) {
            for (int i = 0; i < 10_000; i++) {
                sum = (sum * 31 + i) % 1_000_003;
            }
        }
        return sum;
    }

    static long middle(long ms, boolean rests) throws InterruptedException {
        return inner(ms, rests) + 1;
    }

    static long outer(long ms, boolean rests) throws InterruptedException {
        return middle(ms, rests) + 1;
    }

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/", exchange -> {
            String[] path = exchange.getRequestURI().getPath().split("/");
            byte[] answer;
            try {
                answer = Long.toString(outer(Long.parseLong(path[2]), path[1].equals("rest"))).getBytes();
            } catch (InterruptedException error) {
                throw new RuntimeException(error);
            }
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(2));
        server.start();
        System.out.println("port " + server.getAddress().getPort());
    }
}
