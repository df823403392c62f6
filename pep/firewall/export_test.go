package firewall

import (
	"sync/atomic"
	"time"

	"lorica.dev/lorica/pep"
)

// Stop stops the clock of a filter, and returns what sets it forward.
func Stop(f pep.PacketFilter) (age func(time.Duration)) {
	var seconds atomic.Uint32
	f.(*filter).seconds = seconds.Load
	return func(d time.Duration) { seconds.Add(uint32(d / time.Second)) }
}

// MaxFlows are how many connections that are not established, datagrams, and
// established connections a filter remembers at most.
func MaxFlows() (halves, others, whole int) {
	return shards * limits[halfOpen], shards * limits[datagrams], shards * limits[established]
}

// MaxSampled are how many rules have a sample of their own, and packets of each.
func MaxSampled() (rules, each int) { return maxSampled, sampled }
