import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;

/** java.net.http.HttpClient with its defaults: Client URL MODE (PATH BODY)..., MODE is `sized` or `chunked`. */
public class Client {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 2; i < given.length; i += 2) {
            byte[] body = given[i + 1].getBytes(StandardCharsets.UTF_8);
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0] + given[i]))
                .header("content-type", "application/json")
                .POST(given[1].equals("sized")
                    ? BodyPublishers.ofByteArray(body)
                    : BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body)))
                .build();
            var answer = client.send(request, BodyHandlers.ofString());
            System.out.println(answer.body());
            System.out.println(answer.statusCode());
        }
    }
}
