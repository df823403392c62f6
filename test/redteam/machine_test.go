package redteam

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/qemu"
)

// machine is the image of the same documents and the same application as that of
// hostile, built as a microVM by the first test that needs it.
var machine struct {
	*built
	image *builder.Image
	once  sync.Once
	err   error
}

// machines returns what makes a launch of the hostile image one of a microVM, or nil
// where there can be none.
func machines(t *testing.T) func(*tender.Config) {
	t.Helper()
	if _, err := qemu.Find(""); err != nil {
		notrun.Say(t, t.Name(), err.Error())
		return nil
	}
	machine.once.Do(func() {
		if machine.built, machine.err = plannedFor(api.TargetMicroVM, "testdata/hostile", "egress"); machine.err == nil {
			machine.image, machine.err = machine.build(filepath.Dir(hostile.lorica))
		}
	})
	if machine.err != nil {
		t.Fatal(machine.err)
	}
	program, err := machine.programOf(1)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *tender.Config) {
		c.Image, c.ImageDigest, c.Plan, c.Target = machine.image.Path, machine.image.Digest, hex.EncodeToString(machine.plan.ID[:]), api.TargetMicroVM
		c.IPv4 = true // its document asks for no more
		c.Syscalls, c.Devices, c.Program, c.Memory, c.Patience = nil, machine.image.Devices, program, machineMemory, machinePatience
	}
}

const (
	machineMemory = 64 << 20
	// machinePatience is for a machine whose every instruction is translated, beside
	// another.
	machinePatience = 10 * time.Second
)

// kernelCalls returns the system calls that package kernel has, by number.
func kernelCalls(t *testing.T) map[uint64]string {
	t.Helper()
	b, err := os.ReadFile("../../kernel/syscalls.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := map[uint64]string{}
	for _, m := range regexp.MustCompile(`(?m)^\tnr(\w+) += (\w+)$`).FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.ParseUint(m[2], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		calls[n] = strings.ToLower(m[1])
	}
	if len(calls) < 30 {
		t.Fatalf("only %d calls of the kernel are known", len(calls))
	}
	return calls
}

// Every number that the kernel does not know is answered ENOSYS and said once. Each is
// made by the application of a real image, after the seal.
func TestTheKernelOfAMachineKnowsNoOtherCall(t *testing.T) {
	aMachine := machines(t)
	if aMachine == nil {
		return
	}
	known := kernelCalls(t)
	l, err := live(aMachine)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.end(); err != nil {
			t.Error(err)
		}
	}()
	var o order
	for n := uint64(0); n <= 600; n++ {
		if known[n] == "" {
			o.Calls = append(o.Calls, systemCall{Nr: n, Args: []string{"3", "buf", "64"}})
		}
	}
	const private = 0x4c00
	for n := uint64(private - 2); n < private+16; n++ {
		if known[n] == "" {
			o.Calls = append(o.Calls, systemCall{Nr: n})
		}
	}
	o.Calls = append(o.Calls, systemCall{Nr: 1 << 31}, systemCall{Nr: 0x4000_0000}, systemCall{Nr: 41}, systemCall{Nr: 41})
	answers, err := l.tell(o)
	if err != nil {
		t.Fatal(err)
	}
	const enosys = 38
	for i, a := range answers {
		if a.Errno != enosys {
			t.Errorf("system call %d, which the kernel does not have, was answered: %+v", o.Calls[i].Nr, a)
		}
	}
	said := map[string]int{}
	for _, m := range regexp.MustCompile(`there is no system call (\d+)`).FindAllString(logged(t, l.dir), -1) {
		said[m]++
	}
	for line, n := range said {
		if n != 1 {
			t.Errorf("%q was said %d times", line, n)
		}
	}
	if said["there is no system call 41"] != 1 {
		t.Errorf("it was not said that there is no system call 41; %d others were", len(said))
	}
	t.Logf("%d numbers are none; the kernel has %d", len(answers)-2, len(known))
}

// What an application that has been taken over can do in a machine is published as
// well. It is in ring 0, and can do what it likes there: what counts is what it comes
// to outside.
func TestWhatACompromisedApplicationCanDoInAMachine(t *testing.T) {
	aMachine := machines(t)
	if aMachine == nil {
		return
	}
	numbers, linux := map[string]uint64{}, numbered(t)
	for n, name := range kernelCalls(t) {
		if linux[n] != "" {
			name = linux[n]
		}
		numbers[name] = n
	}
	neighbour, err := live(aMachine)
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.end()

	rows := make([]string, len(inAMachine))
	row := func(i int, out string, err error) {
		p := inAMachine[i]
		if err != nil {
			t.Errorf("%s %s: %v", p.subject(), p.tried, err)
		}
		name := ""
		if p.subject() != "" {
			name = "system call `" + p.subject() + "`, "
		}
		rows[i] = fmt.Sprintf("| %s%s | %s |", name, p.tried, out)
	}
	// What the image lives through is tried on one, the neighbour of the others after it.
	var alone []int
	for i, p := range inAMachine {
		if p.ends != "" || p.after != nil {
			alone = append(alone, i)
			continue
		}
		out, err := p.against(neighbour, numbers)
		row(i, out, err)
	}
	if s := status(t, neighbour.Client); s.Restarts != 0 {
		t.Errorf("the image died of what it should live through: %s", s.LastError)
	}
	eachOf(len(alone), 4, func(n int) {
		out, err := inAMachine[alone[n]].inAMachine(numbers, aMachine)
		row(alone[n], out, err)
	})

	if a, err := neighbour.tell(order{Attack: "none"}); err != nil || a[0].Text != "served" {
		t.Errorf("the neighbour answers %+v, %v", a, err)
	}
	if s := status(t, neighbour.Client); s.Restarts != 0 {
		t.Errorf("the neighbour has died: %s", s.LastError)
	}
	for name := range numbers {
		if !slices.ContainsFunc(inAMachine, func(p probe) bool { return p.subject() == name }) {
			t.Errorf("the kernel has the system call %s, and no abuse of it was tried", name)
		}
	}
	if !t.Failed() {
		publish(t, "redteam-microvm", "| tried | outcome |\n|---|---|\n"+strings.Join(rows, "\n")+"\n")
	}
}

// inAMachine carries out a probe in a machine of its own, and looks at what is left:
// a tender that has not grown, and after its end nothing.
func (p probe) inAMachine(numbers map[string]uint64, aMachine func(*tender.Config)) (text string, err error) {
	l, err := live(aMachine, func(c *tender.Config) {
		if p.wait > 0 {
			c.Patience = p.wait
		}
	})
	if err != nil {
		return "", err
	}
	pids := []int{0, 0}
	defer func() {
		err = errors.Join(err, l.end())
		for _, pid := range pids {
			if _, there := os.Stat(fmt.Sprintf("/proc/%d", pid)); pid != 0 && there == nil {
				err = errors.Join(err, fmt.Errorf("process %d is left", pid))
			}
		}
	}()
	before, err := l.now()
	if err != nil {
		return "", err
	}
	if text, err = p.against(l, numbers); err != nil {
		return text, err
	}
	after, err := l.now()
	pids[0], pids[1] = before.PID, after.PID
	if err == nil && after.Revision != 1 {
		err = fmt.Errorf("revision %d is in force", after.Revision)
	}
	return text, errors.Join(err, staysSmall(l))
}

func (l *life) now() (tender.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return l.Status(ctx)
}
