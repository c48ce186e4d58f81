// An inference worker's side of the contract, with Java's standard library only.
//
//   java Client.java FIXTURES
//
// It decodes each fixture, answers each dispatch and computes the partition of each key. One JSON object on standard
// output says what it found.

import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

public final class Client {
    /** Decodes MessagePack (github.com/msgpack/msgpack/blob/master/spec.md). */
    static final class MessagePack {
        private final ByteBuffer data;

        MessagePack(byte[] content) {
            data = ByteBuffer.wrap(content);
        }

        boolean hasMore() {
            return data.hasRemaining();
        }

        private byte[] take(long length) {
            byte[] taken = new byte[Math.toIntExact(length)];
            data.get(taken);
            return taken;
        }

        private String text(long length) {
            return new String(take(length), StandardCharsets.UTF_8);
        }

        private long unsigned(int length) {
            long number = 0;
            for (int i = 0; i < length; i++) {
                number = number << 8 | data.get() & 0xff;
            }
            if (number < 0) {
                throw new ArithmeticException("beyond 63 bits");
            }
            return number;
        }

        private long signed(int length) {
            return switch (length) {
                case 1 -> data.get();
                case 2 -> data.getShort();
                case 4 -> data.getInt();
                default -> data.getLong();
            };
        }

        private List<Object> list(long length) {
            List<Object> values = new ArrayList<>();
            for (long i = 0; i < length; i++) {
                values.add(value());
            }
            return values;
        }

        private Map<String, Object> map(long length) {
            Map<String, Object> values = new LinkedHashMap<>();
            for (long i = 0; i < length; i++) {
                String name = (String) value();
                values.put(name, value());
            }
            return values;
        }

        Object value() {
            int type = data.get() & 0xff;
            if (type < 0x80) {
                return (long) type;
            } else if (type < 0x90) {
                return map(type & 0x0f);
            } else if (type < 0xa0) {
                return list(type & 0x0f);
            } else if (type < 0xc0) {
                return text(type & 0x1f);
            } else if (type >= 0xe0) {
                return (long) type - 0x100;
            }
            return switch (type) {
                case 0xc0 -> null;
                case 0xc2, 0xc3 -> type == 0xc3;
                case 0xc4, 0xc5, 0xc6 -> Base64.getEncoder().encodeToString(take(unsigned(1 << type - 0xc4)));
                case 0xca -> (double) data.getFloat();
                case 0xcb -> data.getDouble();
                case 0xcc, 0xcd, 0xce, 0xcf -> unsigned(1 << type - 0xcc);
                case 0xd0, 0xd1, 0xd2, 0xd3 -> signed(1 << type - 0xd0);
                case 0xd9, 0xda, 0xdb -> text(unsigned(1 << type - 0xd9));
                case 0xdc, 0xdd -> list(unsigned(2 << type - 0xdc));
                case 0xde, 0xdf -> map(unsigned(2 << type - 0xde));
                default -> throw new IllegalArgumentException("unknown type " + type);
            };
        }
    }

    /** Decodes JSON, for Java's standard library does not. */
    static final class Json {
        private final String text;
        private int at;

        Json(byte[] content) {
            text = new String(content, StandardCharsets.UTF_8);
        }

        private char next() {
            while (Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            return text.charAt(at);
        }

        private boolean ends(char end) {
            char found = next();
            if (found == end || found == ',') {
                at++;
            }
            return found == end;
        }

        Object value() {
            return switch (next()) {
                case '{' -> map();
                case '[' -> list();
                case '"' -> string();
                default -> word();
            };
        }

        private Map<String, Object> map() {
            Map<String, Object> values = new LinkedHashMap<>();
            at++;
            while (!ends('}')) {
                next();
                String name = string();
                next();
                at++;
                values.put(name, value());
            }
            return values;
        }

        private List<Object> list() {
            List<Object> values = new ArrayList<>();
            at++;
            while (!ends(']')) {
                values.add(value());
            }
            return values;
        }

        private String string() {
            StringBuilder found = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                found.append(text.charAt(at) == '\\' ? escaped() : text.charAt(at));
            }
            at++;
            return found.toString();
        }

        private char escaped() {
            char letter = text.charAt(++at);
            if (letter == 'u') {
                at += 4;
                return (char) Integer.parseInt(text.substring(at - 3, at + 1), 16);
            }
            int place = "bfnrt".indexOf(letter);
            return place < 0 ? letter : "\b\f\n\r\t".charAt(place);
        }

        private Object word() {
            int start = at;
            while (at < text.length() && ",]} \n\r\t".indexOf(text.charAt(at)) < 0) {
                at++;
            }
            String word = text.substring(start, at);
            return switch (word) {
                case "null" -> null;
                case "true", "false" -> word.equals("true");
                default -> word.matches("-?\\d+") ? (Object) Long.parseLong(word) : (Object) Double.parseDouble(word);
            };
        }
    }

    static String json(Object value) {
        StringBuilder out = new StringBuilder();
        if (value instanceof Map<?, ?> map) {
            map.forEach((name, of) -> out.append(out.isEmpty() ? "" : ",").append(json(name) + ":" + json(of)));
            return "{" + out + "}";
        } else if (value instanceof List<?> list) {
            list.forEach(of -> out.append(out.isEmpty() ? "" : ",").append(json(of)));
            return "[" + out + "]";
        } else if (value instanceof String text) {
            for (char letter : text.toCharArray()) {
                boolean plain = letter >= ' ' && letter != '"' && letter != '\\';
                out.append(plain ? String.valueOf(letter) : String.format("\\u%04x", (int) letter));
            }
            return "\"" + out + "\"";
        }
        return String.valueOf(value);
    }

    /** The hash that Kafka's Java client takes of a key: murmur2 with its seed. */
    static int murmur2(byte[] data) {
        final int multiplier = 0x5bd1e995;
        int hash = 0x9747b28c ^ data.length;
        ByteBuffer words = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN);
        while (words.remaining() >= 4) {
            int word = words.getInt() * multiplier;
            hash = hash * multiplier ^ (word ^ word >>> 24) * multiplier;
        }
        if (words.hasRemaining()) {
            for (int shift = 0; words.hasRemaining(); shift += 8) {
                hash ^= (words.get() & 0xff) << shift;
            }
            hash *= multiplier;
        }
        hash = (hash ^ hash >>> 13) * multiplier;
        return hash ^ hash >>> 15;
    }

    static Map<String, Object> completion(Map<?, ?> dispatch) {
        Map<String, Object> usage = new LinkedHashMap<>();
        usage.put("input_tokens", ((Map<?, ?>) dispatch.get("query")).get("input_tokens"));
        usage.put("output_tokens", 288L);
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("dispatch_id", dispatch.get("id"));
        answer.put("origin_partition", ((Map<?, ?>) dispatch.get("origin")).get("partition"));
        answer.put("llm", dispatch.get("llm"));
        answer.put("status", "ok");
        answer.put("usage", usage);
        answer.put("quality", 0.9);
        return answer;
    }

    static List<Object> places(List<?> keys) {
        List<Object> found = new ArrayList<>();
        for (Object each : keys) {
            String key = (String) ((Map<?, ?>) each).get("key");
            int hash = murmur2(key.getBytes(StandardCharsets.UTF_8));
            Map<String, Object> partitions = new LinkedHashMap<>();
            for (Object count : ((Map<?, ?>) ((Map<?, ?>) each).get("partitions")).keySet()) {
                partitions.put((String) count, (hash & 0x7fffffff) % Integer.parseInt((String) count));
            }
            Map<String, Object> place = new LinkedHashMap<>();
            place.put("key", key);
            place.put("hash", hash);
            place.put("partitions", partitions);
            found.add(place);
        }
        return found;
    }

    public static void main(String[] arguments) throws IOException {
        Map<String, Object> decoded = new LinkedHashMap<>();
        Map<String, Object> completions = new LinkedHashMap<>();
        List<Object> keys = new ArrayList<>();
        try (DirectoryStream<Path> folder = Files.newDirectoryStream(Path.of(arguments[0]))) {
            for (Path file : folder) {
                String name = file.getFileName().toString();
                byte[] content = Files.readAllBytes(file);
                Object found;
                if (name.endsWith(".json")) {
                    found = new Json(content).value();
                } else {
                    MessagePack packed = new MessagePack(content);
                    found = packed.value();
                    if (packed.hasMore()) {
                        throw new IllegalArgumentException(name + ": bytes are left");
                    }
                }
                if (name.equals("keys.json")) {
                    keys = places((List<?>) found);
                    continue;
                }
                decoded.put(name, found);
                if (name.startsWith("dispatch.")) {
                    completions.put(name, completion((Map<?, ?>) found));
                }
            }
        }
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("decoded", decoded);
        said.put("completions", completions);
        said.put("keys", keys);
        new PrintStream(System.out, true, StandardCharsets.UTF_8).println(json(said));
    }
}
