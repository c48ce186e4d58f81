// An inference worker's side of the contract, with Node's standard library only.
//
//   node client.mjs FIXTURES
//
// It decodes each fixture, answers each dispatch and computes the partition of each key. One JSON object on standard
// output says what it found.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const text = new TextDecoder("utf-8", { fatal: true });

// MessagePack (github.com/msgpack/msgpack/blob/master/spec.md). Bytes become base64, as in JSON.
function decode(buffer) {
  let at = 0;
  const take = (length) => buffer.subarray(at, (at += length));
  const unsigned = (length) => (length === 8 ? safe(take(8).readBigUInt64BE()) : take(length).readUIntBE(0, length));
  const signed = (length) => (length === 8 ? safe(take(8).readBigInt64BE()) : take(length).readIntBE(0, length));
  const list = (length) => Array.from({ length }, value);
  const map = (length) => Object.fromEntries(Array.from({ length }, () => [value(), value()]));
  const string = (length) => text.decode(take(length));
  const bytes = (length) => take(length).toString("base64");

  function safe(number) {
    if (!Number.isSafeInteger(Number(number))) throw new Error(`${number} is not a safe integer`);
    return Number(number);
  }

  function value() {
    const type = unsigned(1);
    if (type < 0x80) return type;
    if (type < 0x90) return map(type & 0x0f);
    if (type < 0xa0) return list(type & 0x0f);
    if (type < 0xc0) return string(type & 0x1f);
    if (type >= 0xe0) return type - 0x100;
    switch (type) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return bytes(unsigned(1 << (type - 0xc4)));
      case 0xca: return take(4).readFloatBE();
      case 0xcb: return take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return unsigned(1 << (type - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return signed(1 << (type - 0xd0));
      case 0xd9: case 0xda: case 0xdb: return string(unsigned(1 << (type - 0xd9)));
      case 0xdc: case 0xdd: return list(unsigned(2 << (type - 0xdc)));
      case 0xde: case 0xdf: return map(unsigned(2 << (type - 0xde)));
      default: throw new Error(`unknown type 0x${type.toString(16)}`);
    }
  }

  const decoded = value();
  if (at !== buffer.length) throw new Error(`${buffer.length - at} bytes are left`);
  return decoded;
}

// The hash that Kafka's Java client takes of a key: murmur2 with its seed.
function murmur2(data) {
  const multiplier = 0x5bd1e995;
  let hash = 0x9747b28c ^ data.length;
  let at = 0;
  for (; data.length - at >= 4; at += 4) {
    let word = Math.imul(data.readInt32LE(at), multiplier);
    word = Math.imul(word ^ (word >>> 24), multiplier);
    hash = Math.imul(hash, multiplier) ^ word;
  }
  if (at < data.length) {
    for (let rest = data.length - 1; rest >= at; rest--) hash ^= data[rest] << (8 * (rest - at));
    hash = Math.imul(hash, multiplier);
  }
  hash = Math.imul(hash ^ (hash >>> 13), multiplier);
  return hash ^ (hash >>> 15);
}

function completion(dispatch) {
  return {
    dispatch_id: dispatch.id,
    origin_partition: dispatch.origin.partition,
    llm: dispatch.llm,
    status: "ok",
    usage: { input_tokens: dispatch.query.input_tokens, output_tokens: 288 },
    quality: 0.9,
  };
}

const folder = process.argv[2];
const said = { decoded: {}, completions: {}, keys: [] };
for (const name of readdirSync(folder)) {
  const content = readFileSync(join(folder, name));
  const found = name.endsWith(".json") ? JSON.parse(content) : decode(content);
  if (name === "keys.json") {
    for (const { key, partitions } of found) {
      const hash = murmur2(Buffer.from(key));
      const places = Object.keys(partitions).map((count) => [count, (hash & 0x7fffffff) % Number(count)]);
      said.keys.push({ key, hash, partitions: Object.fromEntries(places) });
    }
    continue;
  }
  said.decoded[name] = found;
  if (name.startsWith("dispatch.")) said.completions[name] = completion(found);
}
console.log(JSON.stringify(said));
