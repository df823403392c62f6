package firewall_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

// measured is a firewall with the clock of a real one, under n rules and one that lets
// 10.0.0.0/8 in.
func measured(b *testing.B, n int) *rig {
	r := &rig{t: b, module: firewall.New()}
	r.filter = r.module.Packets(place())
	s := manyRules(n)
	l := &s.Lists[0]
	for i := range l.Rules {
		l.Rules[i].Verdict = abi.Allow
	}
	l.Rules = append(l.Rules, flow.Rule{Rule: abi.Rule{ID: "let"}, Verdict: abi.Allow, Src: netip.MustParsePrefix("10.0.0.0/8"), FromHi: 65535, PortHi: 65535})
	r.enforce(s)
	return r
}

// BenchmarkPackets measures the judgement of a packet, by what it is.
func BenchmarkPackets(b *testing.B) {
	const clients = 1 << 16
	for _, rules := range []int{0, 40} {
		run := func(name string, n int, prepare func(*rig), packets func(i int) []byte, judge func(*rig) func([]byte) pep.Action) {
			b.Run(fmt.Sprintf("%s/rules=%d", name, rules), func(b *testing.B) {
				r := measured(b, rules)
				prepare(r)
				list := make([][]byte, n)
				for i := range list {
					list[i] = packets(i)
				}
				f := judge(r)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					f(list[i%n])
				}
			})
		}
		in := func(r *rig) func([]byte) pep.Action { return r.filter.In }
		out := func(r *rig) func([]byte) pep.Action { return r.filter.Out }
		one, nobody := numbered(1), func(*rig) {}
		connected := func(r *rig) { r.connect(one) }
		many := func(r *rig) {
			for i := range clients {
				r.connect(numbered(i))
			}
		}
		run("known in", 1, connected, func(int) []byte { return one.in(ack, 101, 901, 1000) }, in)
		run("known out", 1, connected, func(int) []byte { return one.out(ack, 901, 101, 1000) }, out)
		run("one of 65536 in", clients, many, func(i int) []byte { return numbered(i).in(ack, 101, 901, 0) }, in)
		run("SYN let in", clients, nobody, func(i int) []byte { return numbered(i).in(syn, 1, 0, 0) }, in)
		run("SYN refused", clients, nobody, func(i int) []byte {
			return peer{netip.AddrFrom4([4]byte{240, byte(i >> 16), byte(i >> 8), byte(i)}), 4000, 80}.in(syn, 1, 0, 0)
		}, in)
		run("malformed", 1, nobody, func(int) []byte { return one.in(syn|fin, 1, 0, 0) }, in)
	}
}

// BenchmarkManyFlows measures the memory of 100,000 connections.
func BenchmarkManyFlows(b *testing.B) {
	const connections = 100_000
	var before, after runtime.MemStats
	var r *rig
	for b.Loop() {
		r = measured(b, 0)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range connections {
			r.connect(numbered(i))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	if n := r.counters(); n.Flows < connections {
		b.Errorf("known are %+v", n)
	}
	b.ReportMetric(float64(int64(after.HeapAlloc-before.HeapAlloc))/(1<<20), "MiB")
}

// BenchmarkFlood measures packets of 1,000 known connections among nine times as many
// SYNs of forged sources, and how many of the connections are forgotten meanwhile.
func BenchmarkFlood(b *testing.B) {
	const connections, forged = 1000, 1 << 18
	r := measured(b, 0)
	var list, flood [][]byte
	for i := range connections {
		r.connect(numbered(i))
		list = append(list, numbered(i).out(ack, 901, 101, 0))
	}
	for i := range forged {
		flood = append(flood, numbered(connections+i).in(syn, 1, 0, 0))
	}
	lost := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%10 > 0 {
			r.filter.In(flood[i%forged])
		} else if r.filter.Out(list[i/10%connections]) != pep.Pass {
			lost++
		}
	}
	b.ReportMetric(float64(lost), "lost")
	b.ReportMetric(float64(r.counters().Flows), "flows")
}
