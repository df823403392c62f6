// Command bench measures every promise of speed side by side with what it is
// compared to: in one run, in turn, as medians of ratios, since machines are
// shared and noisy. It ends with one line for each figure,
//
//	figure NAME VALUE TARGET met|short
//
// writes docs/performance.md, and exits with 0 whatever it measured. With -machines it
// measures images in microVMs, with -net those with a network of their own, with -policy
// what judges requests and packets alone, with -packages the solver, and with -tool the
// commands about policies, in the same way.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"lorica.dev/lorica/tender/process"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == process.StageCommand { // QEMU is tried as tenders start it
		if err := process.Stage(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == floodCommand {
		if err := floodMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{document: &ofImages}
	only := flag.String("only", "", "measure only these groups, separated by commas")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each comparison")
	flag.IntVar(&b.seconds, "seconds", 3, "seconds of load for each server and round")
	out := flag.String("out", "", "file to write the results to")
	flag.StringVar(&b.machines, "machines", "", "folder with the guests of microVMs: measure these")
	flag.BoolVar(&b.userNetwork, "user-network", false, "reach microVMs through QEMU's own network: this process may make no interfaces")
	flag.DurationVar(&b.soak, "soak", 0, "keep a microVM under load for so long")
	direct := flag.Bool("net", false, "measure images with a network of their own: this process is root in a network namespace that is its own")
	policies := flag.Bool("policy", false, "measure how fast policies and packets are judged, beside other engines")
	tool := flag.Bool("tool", false, "measure the commands about policies, and changes of level")
	flag.StringVar(&b.packages, "packages", "", "a Packages file of Debian: measure the solver with it")
	flag.Parse()
	groups := []group{
		{"throughput", b.throughput}, {"chain", b.chain}, {"basic", b.basic}, {"handshakes", b.handshakes},
		{"starts", b.starts}, {"changes", b.changes}, {"micro", b.micro}, {"growth", b.growth},
	}
	prepare := b.prepare
	switch {
	case b.machines != "":
		groups, prepare, b.document = b.microVMs(), b.prepareMicroVMs, &ofMicroVMs
	case *policies:
		groups, prepare, b.document = b.policies(), b.prepareModule("policy"), &ofPolicy
	case b.packages != "":
		groups, prepare, b.document = b.solving(), b.prepareModule("solver"), &ofSolver
	case *tool:
		groups, b.document = b.tool(), &ofTool
	case *direct:
		groups, prepare, b.document = b.directNet(), b.prepareDirectNet, &ofDirectNet
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	defer func() {
		for _, dir := range append(b.others, b.dir) {
			os.RemoveAll(dir)
		}
	}()
	for _, g := range groups {
		if *only != "" && !strings.Contains(","+*only+",", ","+g.name+",") {
			continue
		}
		fmt.Println("==", g.name)
		if err := g.run(); err != nil {
			b.cannot(g.name, err)
		}
	}
	if *out != "" {
		if err := b.report(*out); err != nil {
			b.cannot(*out, err)
		}
	}
	fmt.Println()
	for _, m := range b.missing {
		fmt.Println("not measured:", m)
	}
	for _, f := range b.figures {
		f.line(os.Stdout)
	}
}

// A group is figures that are measured together.
type group struct {
	name string
	run  func() error
}

// prepare builds the command into a folder of its own.
func (b *bench) prepare() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("run it in the repository: %w", err)
	}
	b.root = strings.TrimSpace(string(out))
	if b.dir, err = os.MkdirTemp("", "lorica-bench-"); err != nil {
		return err
	}
	b.lorica = filepath.Join(b.dir, "lorica")
	build := exec.Command("go", "build", "-trimpath", "-o", b.lorica, "./cmd/lorica")
	build.Dir = b.root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.MkdirAll(b.home(), 0o700)
}
