package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/test/wire"
)

const (
	manyRules  = 10_000
	floodRate  = 50_000
	unserved   = 7  // a port that rules allow, and nobody serves
	ruledPorts = 40 // as many rules for each network
	ownRules   = 2
)

// rulesPolicy has n rules, the two that allow the benchmark itself included; those come last.
func rulesPolicy(n int) string {
	var w strings.Builder
	w.WriteString(policyHead + "  default: {network: Deny, authorization: Allow}\n  audit: {decisions: denied}\n  endpoints:\n")
	for i := range manyRules / ruledPorts {
		fmt.Fprintf(&w, "    - {name: e%d, cidrs: [10.%d.0.0/16]}\n", i, i)
	}
	w.WriteString("  network:\n    ingress:\n")
	for i := range n - ownRules {
		fmt.Fprintf(&w, "    - {name: r%d, action: Deny, from: [e%d], ports: [{protocol: any, port: %d}]}\n", i, i%(manyRules/ruledPorts), 1000+i/(manyRules/ruledPorts))
	}
	fmt.Fprintf(&w, "    - {name: unserved, action: Allow, from: [any], ports: [{protocol: TCP, port: %d}, {protocol: UDP, port: %[1]d}]}\n", unserved)
	w.WriteString("    - {name: web, action: Allow, from: [any], ports: [{protocol: TCP, portRange: 1024-65535}]}\n")
	return w.String()
}

// ruled brings an image with n rules up, and opens its link.
func (b *bench) ruled(name string, n int) (*image, *target, *wire.Wire, error) {
	before, err := wire.Devices()
	if err != nil {
		return nil, nil, nil, err
	}
	x, t, err := b.direct(name, "direct", rulesPolicy(n))
	if err != nil {
		return nil, nil, nil, err
	}
	now, err := wire.Devices()
	if err != nil {
		x.stop()
		return nil, nil, nil, err
	}
	for _, dev := range now {
		if slices.Contains(before, dev) {
			continue
		}
		w, err := wire.Open(dev)
		if err != nil {
			x.stop()
			return nil, nil, nil, err
		}
		return x, t, w, nil
	}
	x.stop()
	return nil, nil, nil, errors.New("no link has come up: packets come another way")
}

// within10 is an address that the rules speak of.
func within10() uint32 {
	return 10<<24 | rand.Uint32N(manyRules/ruledPorts)<<16 | rand.Uint32N(1<<16)
}

// rules measures what 10,000 of them cost.
func (b *bench) rules() error {
	var targets []*target
	var wires []*wire.Wire
	for name, n := range map[string]int{"none": ownRules, "many": manyRules} {
		x, t, w, err := b.ruled(name, n)
		if err != nil {
			return err
		}
		defer x.stop()
		defer w.Close()
		targets, wires = append(targets, t), append(wires, w)
	}
	if targets[0].name != "none" {
		targets[0], targets[1], wires[0], wires[1] = targets[1], targets[0], wires[1], wires[0]
	}
	list, err := rounds(b.rounds, b.seconds, "", targets...)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "rules-requests", Unit: "x", Values: over(list[1], list[0]), Target: 0.97})
	for _, k := range []struct {
		name     string
		protocol byte
		port     uint16
	}{{"rules-dropped", udp, 1000}, {"rules-let-in", udp, unserved}} {
		var rates [2][]float64
		for round := range b.rounds + 1 {
			for i, w := range wires {
				rate, err := capacity(w, newPacket(k.protocol, netip.AddrPortFrom(w.Image4, k.port)), targets[i].pids()[0], b.seconds)
				if err != nil {
					return err
				}
				if round > 0 {
					rates[i] = append(rates[i], rate)
				}
			}
		}
		b.add(&figure{Name: k.name, Unit: "x", Values: ratios(rates[1], rates[0]), Target: 0.97})
		b.add(&figure{Name: k.name + "-each", Unit: "/s", Values: rates[1], None: true})
	}
	return nil
}

// capacity sends packets from networks that rules speak of, as fast as they go, and
// returns how many the image takes for a second of its processor time.
func capacity(w *wire.Wire, p packet, pid, seconds int) (float64, error) {
	before, err := w.Taken()
	if err != nil {
		return 0, err
	}
	used := cpu([]int{pid})
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		for range 64 {
			p.from(within10(), uint16(1024+rand.IntN(64000)))
			if err := w.Send(p); err != nil {
				return 0, err
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // what waits is taken
	after, err := w.Taken()
	if err != nil {
		return 0, err
	}
	used = cpu([]int{pid}) - used
	if used == 0 || after == before {
		return 0, fmt.Errorf("the image took %d packets in %s of its time", after-before, used)
	}
	return float64(after-before) / used.Seconds(), nil
}

var mebibytes = regexp.MustCompile(`([0-9.]+) MiB`)

// flows measures what 100,000 connections take of the memory of the filter, which stops
// at fewer of anything that anybody can make without an answer.
func (b *bench) flows() error {
	cmd := exec.Command("go", "test", "./pep/firewall", "-run", "^$", "-bench", "^BenchmarkManyFlows$", "-benchtime", "1x", "-count", strconv.Itoa(b.rounds))
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var list []float64
	for _, m := range mebibytes.FindAllSubmatch(out, -1) {
		v, _ := strconv.ParseFloat(string(m[1]), 64)
		list = append(list, v*1.048576)
	}
	if len(list) == 0 {
		return fmt.Errorf("no benchmark of flows: %s", out)
	}
	b.add(&figure{Name: "flows-memory", Unit: "MB", Values: list, Target: 64, AtMost: true})
	return nil
}

// flood measures what is left for clients while SYNs come from nobody.
func (b *bench) flood() error {
	clients := "lorica-bench-" + strconv.Itoa(os.Getpid())
	remove, err := namespace(clients)
	if err != nil {
		return err
	}
	defer remove()
	var targets []*target
	for _, network := range []string{"direct", "socket"} {
		x, t, err := b.direct("flood-"+network, network, rulesPolicy(ownRules))
		if err != nil {
			return err
		}
		defer x.stop()
		t.within, t.url = clients, strings.Replace(t.url, "127.0.0.1", "10.99.0.1", 1)
		targets = append(targets, t)
	}
	kept, sent := make([][]float64, len(targets)), []float64{}
	for range b.rounds {
		for i, t := range targets {
			quiet, err := wrk(t, b.seconds, "")
			if err != nil {
				return err
			}
			to, _, _ := strings.Cut(strings.TrimPrefix(t.url, "http://"), "/")
			end, err := flooding(clients, to, floodRate)
			if err != nil {
				return err
			}
			time.Sleep(time.Second) // what a flood fills is full
			loud, err := wrk(t, b.seconds, "")
			rate, other := end()
			if err := errors.Join(err, other); err != nil {
				return err
			}
			kept[i], sent = append(kept[i], loud.rate/quiet.rate), append(sent, rate)
		}
	}
	b.add(&figure{Name: "flood-sent", Unit: "/s", Values: sent, Target: 0.95 * floodRate})
	b.add(&figure{Name: "flood-over-quiet", Unit: "x", Values: kept[0], Target: 0.5})
	b.add(&figure{Name: "flood-socket", Unit: "x", Values: kept[1], None: true})
	return nil
}
