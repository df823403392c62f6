package main

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/cedar-policy/cedar-go"
)

// dice is a source of numbers that a fuzzer can steer: its bytes first, then a
// stream that depends on them.
type dice struct {
	data []byte
	rest rand.Source
}

func roll(data []byte) *rand.Rand {
	var seed [32]byte
	copy(seed[:], data)
	return rand.New(&dice{data, rand.NewChaCha8(seed)})
}

func number(seed uint64) []byte { return binary.LittleEndian.AppendUint64(nil, seed) }

func (d *dice) Uint64() uint64 {
	v := d.rest.Uint64()
	if len(d.data) > 0 {
		v ^= uint64(d.data[0]) << 56
		d.data = d.data[1:]
	}
	return v
}

func pick[T any](g interface{ IntN(int) int }, list ...T) T { return list[g.IntN(len(list))] }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func cedarString(s string) string { return string(cedar.String(s).MarshalCedar()) }
