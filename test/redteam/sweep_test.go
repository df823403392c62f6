package redteam

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var everyTable = flag.Bool("every-table", false, "sweep the tables of x32 and i386 as wholly as that of x86-64")

// numbered returns the system calls of x86-64 by number, as the package that
// everybody uses lists them: not from the list that the filter is made with.
func numbered(t *testing.T) map[uint64]string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "zsysnum_linux_amd64.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint64]string{}
	for _, m := range regexp.MustCompile(`SYS_(\w+)\s+= (\d+)`).FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		names[n] = strings.ToLower(m[1])
	}
	if len(names) < 350 {
		t.Fatalf("only %d system calls are known", len(names))
	}
	return names
}

// listed reads the names in the manifests of an image's modules as text: what a
// person would find there.
func listed(t *testing.T, b *built) map[string]bool {
	t.Helper()
	calls := map[string]bool{}
	var folders []string
	for _, m := range b.plan.Modules {
		if !m.Own() {
			folders = append(folders, filepath.Join("..", "..", filepath.FromSlash(m.ID)))
		}
	}
	for _, m := range b.deployment.Workload.Modules {
		folders = append(folders, filepath.Join(m.Dir, m.Path))
	}
	for _, dir := range folders {
		text, err := os.ReadFile(filepath.Join(dir, "module.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ = bytes.Cut(text, []byte("\nconfig:"))
		for _, line := range regexp.MustCompile(`(?m)^ *- \{name: (\w+)`).FindAllSubmatch(text, -1) {
			calls[string(line[1])] = true
		}
	}
	if len(calls) == 0 {
		t.Fatal("no manifest lists a call")
	}
	return calls
}

// arguments returns what each system call is tried with.
func arguments(t *testing.T, names map[uint64]string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/arguments.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if !known[words[0]] || all[words[0]] != nil {
			t.Fatalf("testdata/arguments.txt: %s is no system call, or is there twice", words[0])
		}
		all[words[0]] = append([]string{}, words[1:]...)
	}
	return all
}

// unfiltered are the calls that the kernel asks no filter about (Linux 6.14 for the
// first, 6.18 for the second): it makes them itself, from where root has put a
// probe into a program. Made from elsewhere they must come to nothing.
var unfiltered = map[string]func(answers []result, death string) bool{
	"uretprobe": func(_ []result, death string) bool { return strings.Contains(death, "exit status 2") }, // SIGILL
	"uprobe":    func(answers []result, _ string) bool { return len(answers) == 1 && answers[0].Errno == unix.ENXIO },
}

// A shot is one call that must end the image.
type shot struct {
	what string
	call systemCall
}

// Every number that no manifest lists ends the image, and so does every other way
// into the kernel. Each is made by the application of a real image of its own,
// after the seal, in the middle of a request. What manifests list is tried in
// TestWhatACompromisedApplicationCanDo.
func TestEverySystemCallThatNoManifestListsKills(t *testing.T) {
	names, may := numbered(t), listed(t, hostile.built)
	args := arguments(t, names)
	last := slices.Max(slices.Collect(maps.Keys(names)))
	plausible := func(n uint64) []string {
		if a, ok := args[names[n]]; ok {
			return a
		}
		return []string{"3", "buf", "64"}
	}
	var shots []shot
	for n := uint64(0); n <= last+8; n++ {
		if !may[names[n]] {
			shots = append(shots, shot{fmt.Sprintf("%d %s", n, names[n]), systemCall{Nr: n, Args: plausible(n)}})
		}
	}
	own := len(shots)
	const x32 = 0x40000000
	for n := range uint64(548) { // the table of x32 ends with calls of its own from 512
		if *everyTable || may[names[n]] && n%3 == 0 || n == 520 {
			shots = append(shots, shot{fmt.Sprintf("%d of x32", n), systemCall{Nr: x32 | n, Args: plausible(n)}})
		}
	}
	for n := range uint64(470) {
		if *everyTable || slices.Contains([]uint64{3, 4, 5, 11, 20, 90, 102, 125}, n) { // read write open execve getpid mmap socketcall mprotect
			shots = append(shots, shot{fmt.Sprintf("%d of i386", n), systemCall{Entry: "int80", Nr: n, Args: []string{"3", "0", "0"}}})
		}
	}
	for _, n := range []uint64{1 << 31, ^uint64(0)} {
		shots = append(shots, shot{fmt.Sprintf("%#x", n), systemCall{Nr: n}})
	}
	each(len(shots), func(i int) {
		s := shots[i]
		answers, death, err := once(order{Calls: []systemCall{s.call}})
		switch {
		case err != nil:
			t.Errorf("system call %s: %v", s.what, err)
		case s.call.Entry == "" && unfiltered[names[s.call.Nr]] != nil && unfiltered[names[s.call.Nr]](answers, death):
			t.Logf("system call %s passes by the filter of this kernel, and comes to nothing", s.what)
		case death == "":
			t.Errorf("system call %s, which no manifest lists, was answered: %+v", s.what, answers)
		case !strings.Contains(death, sigsys):
			t.Errorf("system call %s ended the image otherwise: %s", s.what, death)
		}
	})
	t.Logf("%d of %d numbers are in no manifest of the image; %d tries of them and of numbers beyond, and %d of other tables, gained nothing",
		len(names)-len(may), len(names), own, len(shots)-own)
}

// each runs f for every number below n, two at a time.
func each(n int, f func(int)) { eachOf(n, 2, f) }

// eachOf does it so many at a time.
func eachOf(n, atOnce int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
