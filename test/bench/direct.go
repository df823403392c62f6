package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"lorica.dev/lorica/test/freeport"
)

// legendOfDirectNet says what is measured, and against what.
const legendOfDirectNet = `
Images of the process target with a TCP/IP stack of their own, beside the same ones that get the host's sockets. Clients' packets come by one of three ways, and each is
measured: ` + "`routed`" + ` by the kernel, through a TAP device, which a root tender can have; ` + "`nested`" + `, each connection made once more by the kernel in a network namespace of an
ordinary user; and ` + "`own stack`" + `, each made once more by the TCP of the tender. ` + "`direct`" + ` without more is the first.

| figure | what is measured |
|---|---|
| -over-socket | requests a second (wrk, one thread, 64 connections, 1 KB) over those of the same image with sockets |
| -cpu-over-socket | processor time of image and tender for such a request, over that with sockets |
| -bulk-over-socket | the same for bodies of 1 MB, over 4 connections |
| rules-requests | requests a second of an image with 10,000 rules over one with none |
| rules-dropped | packets that it drops for a second of its processor time, UDP that no rule allows: with 10,000 rules over none |
| rules-let-in | the same for packets that its filter lets in: UDP to a port that a rule allows and nobody serves |
| flows-memory | what 100,000 connections take of the memory of the packet filter, in a Go benchmark |
| flood-over-quiet | requests a second (wrk in another network namespace) while SYNs come from 50,000 addresses a second that do not exist, over those without |
| flood-socket | the same for the image with sockets, that is for Linux |
`

// somebody is a user without rights, and not the one that images get where their tender
// is root.
const somebody = 64321

// directNet are the groups that can be measured.
func (b *bench) directNet() []group {
	return []group{{"ways", b.ways}, {"rules", b.rules}, {"flows", b.flows}, {"flood", b.flood}}
}

// prepareDirectNet has this network namespace reach itself, and route as doctor asks for.
func (b *bench) prepareDirectNet() error {
	if err := ip("link set dev lo up"); err != nil {
		return err
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	return b.prepare()
}

// direct brings an image up, with a network of its own or with sockets.
func (b *bench) direct(name, network, policy string) (*image, *target, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, nil, err
	}
	everywhere := fmt.Sprintf("{name: web, address: 0.0.0.0, port: %d}", port)
	text := strings.Replace(workload(name, b.app(), port), fmt.Sprintf("{name: web, port: %d}", port), everywhere, 1)
	dir, err := b.project(name, strings.Replace(text, "spec:\n", "spec:\n  network: "+network+"\n", 1), policy)
	if err != nil {
		return nil, nil, err
	}
	if b.user != 0 { // who has no caches to build with
		if out, err := b.command("build", "-f", dir).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("build: %w: %s", err, out)
		}
		if err := b.give(b.dir); err != nil {
			return nil, nil, err
		}
	}
	x, err := b.up(dir)
	if err != nil {
		return nil, nil, err
	}
	pids := []int{x.ready.Status.PID, x.ready.Status.TenderPID}
	return x, &target{name: name, url: fmt.Sprintf("http://127.0.0.1:%d/", port), pids: func() []int { return pids }}, nil
}

// give makes files those of the user that has images up.
func (b *bench) give(dir string) error {
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, int(b.user), int(b.user))
	})
}

// of is a bench for another user, in a folder of its own, with figures of this one.
func (b *bench) of(user uint32) (*bench, error) {
	dir, err := os.MkdirTemp("", "lorica-bench-")
	if err != nil {
		return nil, err
	}
	o := &bench{dir: dir, root: b.root, lorica: filepath.Join(dir, "lorica"), rounds: b.rounds, seconds: b.seconds, user: user}
	return o, errors.Join(os.Link(b.lorica, o.lorica), os.MkdirAll(o.home(), 0o700))
}

// A way is how packets come to an image.
type way struct {
	name string
	up   func() (*image, *target, error)
	way  string  // as the tender names it
	rate float64 // targets, over sockets; 0: none
	cpu  float64
	bulk float64
}

// ways measures images with a network of their own beside one with sockets.
func (b *bench) ways() error {
	list := []way{
		{name: "socket", up: func() (*image, *target, error) { return b.direct("socket", "socket", plainPolicy) }},
		{name: "direct", up: func() (*image, *target, error) { return b.direct("direct", "direct", plainPolicy) }, way: "routed", rate: 0.80, cpu: 1.5, bulk: 0.7},
	}
	for _, w := range []struct {
		name string
		tun  bool
	}{{"nested", true}, {"own stack", false}} {
		list = append(list, way{name: "direct-" + strings.ReplaceAll(w.name, " ", "-"), way: w.name, up: func() (*image, *target, error) {
			o, err := b.of(somebody)
			if err != nil {
				return nil, nil, err
			}
			b.others = append(b.others, o.dir)
			if err := openTUN(w.tun); err != nil {
				return nil, nil, err
			}
			return o.direct("ordinary", "direct", plainPolicy)
		}})
	}
	var there []way
	var small, big []*target
	for _, w := range list {
		x, t, err := w.up()
		if err == nil && x.ready.Status.Way != w.way {
			x.stop()
			err = fmt.Errorf("packets come %q here, and not %q", x.ready.Status.Way, w.way)
		}
		if err != nil {
			if w.name == "socket" {
				return err
			}
			b.cannot(w.name, err)
			continue
		}
		defer x.stop()
		t.name = w.name
		there = append(there, w)
		small = append(small, t)
		big = append(big, &target{name: w.name, url: t.url + "big", connections: few, pids: t.pids})
	}
	pages, err := rounds(b.rounds, b.seconds, "", small...)
	if err != nil {
		return err
	}
	bodies, err := rounds(b.rounds, b.seconds, "", big...)
	if err != nil {
		return err
	}
	for i, w := range there {
		b.add(&figure{Name: w.name + "-rps", Values: pages[i].rates(), None: true})
		b.add(&figure{Name: w.name + "-cpu", Unit: "us", Values: pages[i].costs(), None: true})
		b.add(&figure{Name: w.name + "-bulk", Unit: "MB/s", Values: scaled(bodies[i].rates(), bigBody/1e6), None: true})
		if i == 0 {
			continue
		}
		b.add(&figure{Name: w.name + "-over-socket", Unit: "x", Values: over(pages[i], pages[0]), Target: w.rate, None: w.rate == 0})
		b.add(&figure{Name: w.name + "-cpu-over-socket", Unit: "x", Values: ratios(pages[i].costs(), pages[0].costs()), Target: w.cpu, AtMost: true, None: w.cpu == 0})
		b.add(&figure{Name: w.name + "-bulk-over-socket", Unit: "x", Values: over(bodies[i], bodies[0]), Target: w.bulk, None: w.bulk == 0})
	}
	return nil
}

// openTUN lets everybody make TAP devices, or root alone: who may decides by which way
// packets come to the images of others. The folder is this mount namespace's own.
func openTUN(all bool) error {
	mode := os.FileMode(0o600)
	if all {
		mode = 0o666
	}
	return os.Chmod("/dev/net/tun", mode)
}

// costs is the processor time of each round for a request.
func (s series) costs() []float64 {
	var list []float64
	for _, m := range s.measures {
		list = append(list, m.micros)
	}
	return list
}

func scaled(list []float64, by float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = v * by
	}
	return out
}

// ratios returns those of the values of each round.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

// namespace makes a network namespace of clients, joined to this one: this end has the
// addresses .1, and theirs .2. What goes elsewhere goes there, and ends.
func namespace(name string) (remove func(), err error) {
	remove = func() { exec.Command("ip", "netns", "del", name).Run() }
	err = ip("netns add "+name,
		"link add server0 type veth peer name client0 netns "+name,
		"addr add 10.99.0.1/24 dev server0",
		"link set dev server0 up",
		"route add default via 10.99.0.2",
		"-n "+name+" addr add 10.99.0.2/24 dev client0",
		"-n "+name+" link set dev client0 up",
		"-n "+name+" link set dev lo up")
	if err != nil {
		remove()
		return nil, err
	}
	for _, dev := range []string{"all", "server0"} { // sources that are nobody's arrive
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/rp_filter", []byte("0"), 0); err != nil {
			remove()
			return nil, err
		}
	}
	return remove, nil
}
