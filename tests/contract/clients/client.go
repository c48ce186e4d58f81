// An inference worker's side of the contract, with Go's standard library only.
//
//	go run client.go FIXTURES
//
// It decodes each fixture, answers each dispatch and computes the partition of each key. One JSON object on standard
// output says what it found.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// dispatch holds the fields that an answer needs. Money is micro-dollars, time is milliseconds.
type dispatch struct {
	ID     string `json:"id"`
	LLM    string `json:"llm"`
	Origin struct {
		Partition int64 `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"origin"`
	ReservedMicros int64 `json:"reserved_micros"`
	DeadlineMS     int64 `json:"deadline_ms"`
	Query          struct {
		Text        *string `json:"text"`
		InputTokens *int64  `json:"input_tokens"`
	} `json:"query"`
}

type usage struct {
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"`
}

type completion struct {
	DispatchID      string  `json:"dispatch_id"`
	OriginPartition int64   `json:"origin_partition"`
	LLM             string  `json:"llm"`
	Status          string  `json:"status"`
	Usage           usage   `json:"usage"`
	Quality         float64 `json:"quality"`
}

type key struct {
	Key        string           `json:"key"`
	Hash       int32            `json:"hash"`
	Partitions map[string]int32 `json:"partitions"`
}

// reader decodes MessagePack (github.com/msgpack/msgpack/blob/master/spec.md).
type reader struct {
	data []byte
}

func (r *reader) take(length int) []byte {
	taken := r.data[:length]
	r.data = r.data[length:]
	return taken
}

func (r *reader) unsigned(length int) uint64 {
	var whole [8]byte
	copy(whole[8-length:], r.take(length))
	return binary.BigEndian.Uint64(whole[:])
}

func (r *reader) signed(length int) int64 {
	shift := uint(64 - 8*length)
	return int64(r.unsigned(length)<<shift) >> shift
}

func (r *reader) list(length int) []any {
	values := make([]any, 0)
	for range length {
		values = append(values, r.value())
	}
	return values
}

func (r *reader) object(length int) map[string]any {
	values := map[string]any{}
	for range length {
		name := r.value().(string)
		values[name] = r.value()
	}
	return values
}

func (r *reader) value() any {
	kind := int(r.unsigned(1))
	switch {
	case kind < 0x80:
		return int64(kind)
	case kind < 0x90:
		return r.object(kind & 0x0f)
	case kind < 0xa0:
		return r.list(kind & 0x0f)
	case kind < 0xc0:
		return string(r.take(kind & 0x1f))
	case kind >= 0xe0:
		return int64(kind - 0x100)
	}
	switch kind {
	case 0xc0:
		return nil
	case 0xc2, 0xc3:
		return kind == 0xc3
	case 0xc4, 0xc5, 0xc6:
		return r.take(int(r.unsigned(1 << (kind - 0xc4))))
	case 0xca:
		return float64(math.Float32frombits(uint32(r.unsigned(4))))
	case 0xcb:
		return math.Float64frombits(r.unsigned(8))
	case 0xcc, 0xcd, 0xce, 0xcf:
		return r.unsigned(1 << (kind - 0xcc))
	case 0xd0, 0xd1, 0xd2, 0xd3:
		return r.signed(1 << (kind - 0xd0))
	case 0xd9, 0xda, 0xdb:
		return string(r.take(int(r.unsigned(1 << (kind - 0xd9)))))
	case 0xdc, 0xdd:
		return r.list(int(r.unsigned(2 << (kind - 0xdc))))
	case 0xde, 0xdf:
		return r.object(int(r.unsigned(2 << (kind - 0xde))))
	}
	panic(fmt.Sprintf("unknown type 0x%02x", kind))
}

// murmur2 is the hash that Kafka's Java client takes of a key, with its seed.
func murmur2(data []byte) int32 {
	const multiplier = 0x5bd1e995
	hash := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		word := binary.LittleEndian.Uint32(data) * multiplier
		word = (word ^ word>>24) * multiplier
		hash = hash*multiplier ^ word
	}
	if len(data) > 0 {
		for place, rest := range data {
			hash ^= uint32(rest) << (8 * place)
		}
		hash *= multiplier
	}
	hash = (hash ^ hash>>13) * multiplier
	return int32(hash ^ hash>>15)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func answer(content []byte) completion {
	var asked dispatch
	check(json.Unmarshal(content, &asked))
	used := usage{InputTokens: *asked.Query.InputTokens, OutputTokens: 288}
	return completion{asked.ID, asked.Origin.Partition, asked.LLM, "ok", used, 0.9}
}

func places(content []byte) []key {
	var keys []key
	check(json.Unmarshal(content, &keys))
	for i := range keys {
		keys[i].Hash = murmur2([]byte(keys[i].Key))
		for count := range keys[i].Partitions {
			number, err := strconv.Atoi(count)
			check(err)
			keys[i].Partitions[count] = (keys[i].Hash & 0x7fffffff) % int32(number)
		}
	}
	return keys
}

func main() {
	decoded, completions, keys := map[string]json.RawMessage{}, map[string]completion{}, []key{}
	files, err := filepath.Glob(filepath.Join(os.Args[1], "*"))
	check(err)
	for _, file := range files {
		name := filepath.Base(file)
		content, err := os.ReadFile(file)
		check(err)
		if name == "keys.json" {
			keys = places(content)
			continue
		}
		if strings.HasSuffix(name, ".msgpack") {
			packed := &reader{content}
			content, err = json.Marshal(packed.value())
			check(err)
			if len(packed.data) > 0 {
				panic("bytes are left")
			}
		}
		decoded[name] = json.RawMessage(bytes.TrimSpace(content))
		if strings.HasPrefix(name, "dispatch.") {
			completions[name] = answer(content)
		}
	}
	said := map[string]any{"decoded": decoded, "completions": completions, "keys": keys}
	check(json.NewEncoder(os.Stdout).Encode(said))
}
