package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/test/freeport"
)

const (
	roomy       = 256 // MB of memory that every guest has more than enough with
	most        = 512 // MB that memory is searched up to
	few, many   = 4, 16
	bigBody     = 1 << 20
	oursIsNamed = "lorica"
)

// legendOfMicroVMs says what is measured, and against what.
const legendOfMicroVMs = `
Every guest has one processor of the same model, the same devices, the same network (TAP, 1500 bytes, checksums and segments left to the host where the guest can)
and serves the same application in Go with net/http. ` + "`lorica`" + ` is that application on the kernel and the network of an image, without policies; ` + "`debian`" + ` is Debian's
cloud kernel as it comes, with its modules and the application as /init; ` + "`tiny`" + ` is a kernel of the same source with nothing that is not needed
(` + "`test/bench/guests/linux/tiny.config`" + `). Debian's kernel finds devices by ACPI alone; the others have none.

| figure | what is measured |
|---|---|
| start | from the start of QEMU to the first 200; -faster-than: how many times |
| memory | the least memory of the machine (-m) with which the guest lives through the load (wrk, 16 connections); -less-than: how many times |
| cpu | processor time of QEMU for a request, 1 KB (wrk, 16 connections, as fast as it goes); -over: the ratio |
| rps | requests a second meanwhile |
| bulk | bodies of 1 MB over 4 connections |
| image | what is booted: kernel, and ramdisk where there is one |
| whole | images with all that belongs to them, under their tenders, which pass the connections of microVMs on: from the start of QEMU or of the process to the first 200, requests a second, and the processor time of both for a request. A policy that allows everything, 1 KB, 16 connections |
| soak | ` + "`make soak-microvm`" + `: connections of one request, kept ones, bodies of 1 MB, bodies that are hashed, and idle connections, all at once; memory of the guest that is free after a collection, at the end against after the first tenth |
`

// microVMs are the groups that can be measured.
func (b *bench) microVMs() []group {
	list := []group{{"sizes", b.sizes}, {"boots", b.boots}, {"loads", b.loads}, {"memory", b.memory}, {"whole", b.whole}}
	if b.soak > 0 {
		list = []group{{"soak", b.soaked}}
	}
	return list
}

// prepareMicroVMs finds QEMU and the guests, and links ours.
func (b *bench) prepareMicroVMs() error {
	host, err := qemu.Find(os.Getenv("PATH"))
	if err != nil {
		return err
	}
	l, err := process.NewLauncher()
	if err != nil {
		return err
	}
	b.qemu = host.Path
	if b.accel, err = host.Accel(l, process.Probe().Confinement); err != nil {
		b.why = " (no KVM: " + err.Error() + ")"
	}
	fmt.Printf("QEMU %s, %s%s\n", host.Version, b.accel, b.why)
	if b.soak == 0 {
		if err := b.prepare(); err != nil {
			return err
		}
	}
	if err := b.link(); err != nil {
		b.cannot("lorica", err)
	}
	return b.findGuests()
}

// ours returns our guest and the others.
func (b *bench) ours() (ours *guest, others []*guest) {
	for _, g := range b.guests {
		if g.name == oursIsNamed {
			ours = g
		} else {
			others = append(others, g)
		}
	}
	return ours, others
}

// A promise is what a ratio of ours to another guest is to be.
type promise map[string]float64

// compare adds a figure for each guest, and the ratios that ours gives. With atMost
// ours is to have less than so many times what the other has, else more than so many
// times less.
func (b *bench) compare(name, ratio, unit string, values map[string][]float64, want promise, ratioOf func(ours, other float64) float64, atMost bool) {
	ours, others := b.ours()
	for _, g := range b.guests {
		if len(values[g.name]) > 0 {
			b.add(&figure{Name: "microvm-" + name + "-" + g.name, Unit: unit, Values: values[g.name], None: true})
		}
	}
	if ours == nil {
		return
	}
	for _, g := range others {
		var list []float64
		for i, v := range values[g.name] {
			if i < len(values[ours.name]) {
				list = append(list, ratioOf(values[ours.name][i], v))
			}
		}
		if len(list) > 0 {
			target, promised := want[g.name]
			b.add(&figure{Name: "microvm-" + ratio + "-" + g.name, Unit: "x", Values: list, Target: target, AtMost: atMost, None: !promised})
		}
	}
}

func oursOver(ours, other float64) float64   { return ours / other }
func othersOver(ours, other float64) float64 { return other / ours }

// boots measures the time from the start of QEMU to the first answer.
func (b *bench) boots() error {
	values := map[string][]float64{}
	for round := range b.rounds + 1 {
		for _, g := range b.guests {
			m, err := b.boot(g, roomy)
			if err != nil {
				return err
			}
			took, err := m.answered(bootPatience)
			m.stop()
			if err != nil {
				return err
			}
			if round > 0 {
				values[g.name] = append(values[g.name], float64(took.Microseconds())/1000)
			}
		}
	}
	b.compare("start", "start-faster-than", "ms", values, promise{"debian": 8, "tiny": 1.5}, othersOver, false)
	return nil
}

// memory searches the least memory that a guest serves with.
func (b *bench) memory() error {
	values := map[string][]float64{}
	for _, g := range b.guests {
		works, fails := most, 8
		if err := b.serves(g, works); err != nil {
			return err
		}
		for works-fails > 1 {
			n := (works + fails) / 2
			if err := b.serves(g, n); err != nil {
				fails = n
			} else {
				works = n
			}
			fmt.Printf("    %s: %d MB are too few, %d are enough\n", g.name, fails, works)
		}
		values[g.name] = []float64{float64(works)}
		if g.name == oursIsNamed {
			b.add(&figure{Name: "microvm-memory", Unit: "MB", Values: values[g.name], Target: 24, AtMost: true})
		}
	}
	b.compare("memory", "memory-less-than", "MB", values, promise{"debian": 4}, othersOver, false)
	return nil
}

// serves reports why g does not live through some seconds of load with so much memory.
func (b *bench) serves(g *guest, megabytes int) error {
	m, err := b.boot(g, megabytes)
	if err != nil {
		return err
	}
	defer m.stop()
	if _, err := m.answered(bootPatience / 2); err != nil {
		return err
	}
	load, err := wrk(m.target("/", many), b.seconds, "")
	if err != nil {
		return err
	}
	if load.failed > 0 || load.rate == 0 {
		return fmt.Errorf("%s with %d MB: %d requests failed", g.name, megabytes, load.failed)
	}
	_, err = m.answered(5 * time.Second)
	return err
}

// loads measures what a request costs, and bodies of a megabyte.
func (b *bench) loads() error {
	var small, big []*target
	for _, g := range b.guests {
		m, err := b.boot(g, roomy)
		if err != nil {
			return err
		}
		defer m.stop()
		if _, err := m.answered(bootPatience); err != nil {
			return err
		}
		small, big = append(small, m.target("/", many)), append(big, m.target("/big", few))
	}
	costs, rates, bulk := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	list, err := rounds(b.rounds, b.seconds, "", small...)
	if err != nil {
		return err
	}
	for _, s := range list {
		rates[s.target.name] = s.rates()
		for _, m := range s.measures {
			costs[s.target.name] = append(costs[s.target.name], m.micros)
		}
	}
	b.compare("cpu", "cpu-over", "us", costs, promise{"debian": 1}, oursOver, true)
	b.compare("rps", "rps-over", "", rates, nil, oursOver, false)
	if list, err = rounds(b.rounds, b.seconds, "", big...); err != nil {
		return err
	}
	for _, s := range list {
		for _, rate := range s.rates() {
			bulk[s.target.name] = append(bulk[s.target.name], rate*bigBody/1e6)
		}
	}
	b.compare("bulk", "bulk-over", "MB/s", bulk, promise{"debian": 1}, oursOver, false)
	return nil
}

// sizes measures what is booted.
func (b *bench) sizes() error {
	for _, g := range b.guests {
		size := 0.0
		for _, file := range strings.Fields(g.kernel + " " + g.initrd) {
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			size += float64(info.Size()) / 1e6
		}
		f := &figure{Name: "microvm-image-" + g.name, Unit: "MB", Values: []float64{size}, None: true}
		if g.name == oursIsNamed {
			f = &figure{Name: "microvm-image", Unit: "MB", Values: f.Values, Target: 10, AtMost: true}
		}
		b.add(f)
	}
	return nil
}

// whole measures an image with its policy under its tender: as a microVM, and as a
// process.
func (b *bench) whole() error {
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	dir, err := b.project("whole", workload("whole", b.app(), port), plainPolicy)
	if err != nil {
		return err
	}
	kinds := []string{"microvm", "process"}
	starts, rates, costs, sizes := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string]float64{}
	for round := range b.rounds + 1 {
		for _, kind := range kinds {
			x, err := b.up(dir, "--target", kind)
			if err != nil {
				return err
			}
			begin := time.Now()
			url := fmt.Sprintf("http://127.0.0.1:%d/", port)
			_, err = get(context.Background(), url)
			first := x.ready.Status.BootMillis + float64(time.Since(begin).Microseconds())/1000
			var m measure
			if err == nil {
				m, err = wrk(&target{name: kind, url: url, connections: many, pids: func() []int {
					return []int{x.ready.Status.PID, x.ready.Status.TenderPID}
				}}, b.seconds, "")
			}
			x.stop()
			if err == nil {
				sizes[kind], err = largestImage(filepath.Join(b.home(), ".local", "share", "lorica"), x.ready.Status.ImageDigest)
			}
			if err != nil {
				return err
			}
			if m.failed > 0 {
				return fmt.Errorf("%d requests to a %s failed", m.failed, kind)
			}
			if round > 0 {
				starts[kind], rates[kind], costs[kind] = append(starts[kind], first), append(rates[kind], m.rate), append(costs[kind], m.micros)
			}
		}
	}
	for _, kind := range kinds {
		b.add(&figure{Name: "whole-start-" + kind, Unit: "ms", Values: starts[kind], None: true})
		b.add(&figure{Name: "whole-rps-" + kind, Values: rates[kind], None: true})
		b.add(&figure{Name: "whole-cpu-" + kind, Unit: "us", Values: costs[kind], None: true})
	}
	b.add(&figure{Name: "whole-image-microvm", Unit: "MB", Values: []float64{sizes[kinds[0]] / 1e6}, Target: 10, AtMost: true})
	return nil
}
