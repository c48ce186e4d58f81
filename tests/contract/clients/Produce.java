// Produces one record for each key, with Kafka's own Java client and its default partitioner.
//
//   java -cp JARS Produce.java SERVERS TOPIC KEY...
//
// It prints the partition of each key, in order.

import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Produce {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", arguments[0]);
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (int i = 2; i < arguments.length; i++) {
                System.out.println(producer.send(new ProducerRecord<>(arguments[1], arguments[i], "{}")).get().partition());
            }
        }
    }
}
