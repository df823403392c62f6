package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// legend says what is measured, and against what.
const legend = `
| figure | what is measured |
|---|---|
| seal-tax | requests a second (wrk, one thread, 64 connections, 1 KB) of a sealed image without enforcement, over the same application under bare net/http |
| plain-over-cohttp, -caddy, -nginx | the same image over Cohttp, Caddy and one worker of nginx with a constant response. Most of a request is the kernel's here: where nginx itself is less than 2.5 times Caddy, nobody is |
| static-over-caddy | an image of a file over Caddy with the same file, as the target was taken |
| chain-repeating, -distinct | an image with every module but TLS, 1,000 Cedar policies and 10,000 network rules over the plain image: POST with a token and a JSON body that a policy reads; one request, and 10,000 triples of user, path and amount. -cpu: what that costs in processor time for a request |
| basic-over-caddy | HTTP Basic on both sides; argon2id here, bcrypt of two thirds of its time or more there |
| tls-connections | new TLS 1.3 connections with one request each for a second of the server's processor time, ECDSA P-256; key exchange over P-256, and over X25519, which Go has without assembly |
| exec-to-first-answer, idle-memory, gateway-image | an image with every module: from exec to the first 200; resident memory without load; the size of the file |
| plan | ` + "`lorica plan`" + ` of that workload, warm |
| saved-to-enforced | from the save of a changed policy to the first request judged by it: where modules stay, where they change (warm), and cold |
| replacements | 20 of each kind under 64 connections |
| chain-remembered, -new | the guards of one request alone, in a Go benchmark: a head that came before on its connection, and one that did not |
`

// A document is what is written of a run: in which words, and with which versions of
// what was measured beside us, as Debian has them.
type document struct {
	title, command, legend string
	peers                  [][2]string // name and package
}

var (
	ofImages    = document{"Performance", "make bench", legend, [][2]string{{"wrk", "wrk"}, {"nginx", "nginx"}, {"Caddy", "caddy"}, {"Cohttp", "libcohttp-lwt-unix-ocaml-dev"}}}
	ofMicroVMs  = document{"Performance in microVMs", "make bench-microvm", legendOfMicroVMs, [][2]string{{"wrk", "wrk"}, {"QEMU", "qemu-system-x86"}}}
	ofDirectNet = document{"Performance of the direct network", "make bench-net", legendOfDirectNet, [][2]string{{"wrk", "wrk"}}}
	ofPolicy    = document{"Performance of policies", "make bench-policy", legendOfPolicy, nil}
	ofSolver    = document{"Performance of the solver", "make bench-solver", legendOfSolver, [][2]string{{"dose-debcheck", "dose-distcheck"}, {"aspcud", "aspcud"}, {"mccs", "mccs"}}}
	ofTool      = document{"Performance of the commands", "make bench-tool", legendOfTool, nil}
)

// report writes what was measured, on what, and the plots beside it.
func (b *bench) report(file string) error {
	var w strings.Builder
	fmt.Fprintf(&w, "# %s\n\nWritten by `%s`; ratios are taken side by side in one run, round by round. Values are medians, the spread is the least and the\ngreatest round.\n\n", b.document.title, b.document.command)
	fmt.Fprintf(&w, "Measured on %s, %d processors (%s), Linux %s, %s%s, in %d rounds with %d seconds of load for each server.\n\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), processor(), kernel(), runtime.Version(), b.document.versions(), b.rounds, b.seconds)
	if b.accel != "" {
		fmt.Fprintf(&w, "QEMU runs guests by %s%s.\n\n", b.accel, b.why)
	}
	if b.packages != "" {
		said, err := describePackages(b.packages)
		if err != nil {
			return err
		}
		fmt.Fprintf(&w, "%s.\n\n", said)
	}
	w.WriteString("| figure | value | spread | target | |\n|---|---|---|---|---|\n")
	for _, f := range b.figures {
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s |\n", f.Name, f.value(), f.spread(), f.target(), f.verdict())
	}
	if len(b.missing) > 0 {
		w.WriteString("\nNot measured:\n\n")
		for _, m := range b.missing {
			fmt.Fprintf(&w, "- %s\n", strings.ReplaceAll(m, "\n", " "))
		}
	}
	w.WriteString("\n## What the figures are\n" + b.document.legend)
	if len(b.plots) > 0 {
		w.WriteString("\n## How cost grows\n\n")
	}
	for _, p := range b.plots {
		name := p.file + ".svg"
		fmt.Fprintf(&w, "![%s](%s)\n\n", p.plot.Title, name)
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte(p.plot.svg()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(strings.TrimRight(w.String(), "\n")+"\n"), 0o644)
}

func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// versions are those of the peers.
func (d *document) versions() (list string) {
	for _, p := range d.peers {
		if v, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", p[1]).Output(); err == nil {
			list += fmt.Sprintf(", %s %s", p[0], v)
		}
	}
	return list
}
