package basic

import (
	"fmt"
	"strings"
)

// Bounds of argon2id: MaxMemory and MaxTime take some seconds of one core.
const (
	MinMemory  = 8 // KiB for each lane (RFC 9106, 3.1)
	MaxMemory  = 64 << 10
	MaxTime    = 10
	MaxThreads = 4
)

// An Argon2id is a verifier of that scheme (RFC 9106).
type Argon2id struct {
	Memory     uint32 // KiB
	Time       uint32
	Threads    uint8
	Salt, Hash []byte
}

// ReadArgon2id reads a verifier in the PHC string format,
//
//	$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
//
// and returns what is wrong with it.
func ReadArgon2id(s string) (Argon2id, string) {
	p := strings.Split(s, "$")
	if len(p) != 6 || p[0] != "" || p[1] != "argon2id" || p[2] != "v=19" {
		return Argon2id{}, "the verifier is not of the form $argon2id$v=19$m=,t=,p=$SALT$HASH"
	}
	cost := strings.Split(p[3], ",")
	if len(cost) != 3 {
		return Argon2id{}, "the cost is not of the form m=,t=,p="
	}
	threads, ok3 := parameter(cost[2], "p=", 1, MaxThreads)
	memory, ok1 := parameter(cost[0], "m=", MinMemory*max(1, threads), MaxMemory)
	time, ok2 := parameter(cost[1], "t=", 1, MaxTime)
	switch {
	case !ok1:
		return Argon2id{}, fmt.Sprintf("m must be from %d for each p to %d (KiB)", MinMemory, MaxMemory)
	case !ok2:
		return Argon2id{}, fmt.Sprintf("t must be from 1 to %d", MaxTime)
	case !ok3:
		return Argon2id{}, fmt.Sprintf("p must be from 1 to %d", MaxThreads)
	}
	salt, hash, problem := secretParts(p[4], p[5], MaxHash)
	if problem != "" {
		return Argon2id{}, problem
	}
	return Argon2id{memory, time, uint8(threads), salt, hash}, ""
}

// weak compares with the OWASP Password Storage Cheat Sheet, whose pairs of memory
// and time are meant to be of one strength: about 37 MiB filled.
func (a Argon2id) weak() string {
	for _, ok := range []struct{ memory, time uint32 }{{47104, 1}, {19456, 2}, {12288, 3}, {9216, 4}, {7168, 5}} {
		if a.Memory >= ok.memory && a.Time >= ok.time {
			return shortSalt(a.Salt)
		}
	}
	return fmt.Sprintf("argon2id of m=%d,t=%d; m=19456,t=2 is the least that is recommended", a.Memory, a.Time)
}
