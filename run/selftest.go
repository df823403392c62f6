package run

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/qemu"
)

// A Check is one line of a self test.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Took   string `json:"took"`
	Detail string `json:"detail"`
}

const (
	selftestName   = "lorica/selftest" // of the deployment
	selftestWithin = 5 * time.Minute
	selftestMemory = 128 << 20
	selftestWindow = 1 << 20
)

// Selftest shows that a target works on this machine: for microVMs that the Go
// runtime works on the kernel and that the protections of that kill, and for both
// that an image, run as any other, moves bytes and survives its application. sink is
// told of each check as it ends. The error is about what kept checks from being made.
func (m *Machine) Selftest(ctx context.Context, target, network string, progress func(builder.Step), sink func(Check)) error {
	lock, err := lockUp(m.paths.Data, selftestName, "selftest")
	if err != nil {
		return err
	}
	defer lock.Close()
	dir, err := os.MkdirTemp("", "lorica-selftest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := selftestProject(filepath.Join(dir, "project"), target, network)
	if err != nil {
		return err
	}
	if target == api.TargetMicroVM {
		progress(builder.Step{Name: builder.StepCompile, Detail: "what tests the kernel from inside"})
		if err := kernelTest(ctx, dir, sink); err != nil {
			return err
		}
	}
	return m.serviceTest(ctx, d, progress, sink)
}

// kernelTest boots the image that tests the kernel from inside, and passes on what
// it says.
func kernelTest(ctx context.Context, dir string, sink func(Check)) error {
	host, err := qemu.Find("") // before anything is built for it
	if err != nil {
		return err
	}
	image, digest, err := builder.Selftest(ctx, dir)
	if err != nil {
		return err
	}
	report := process.Probe()
	launcher, err := process.NewLauncher()
	if err != nil {
		return err
	}
	measured, err := process.Measure(image, digest)
	if err != nil {
		return err
	}
	defer measured.Close()
	ram, err := qemu.NewRAM(selftestMemory, selftestWindow)
	if err != nil {
		return err
	}
	defer ram.Close()
	output, sinkEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	accel, _ := host.Accel(launcher, report.Confinement)
	vm, err := host.Launch(launcher, qemu.Spec{Image: measured, RAM: ram, Output: sinkEnd, Accel: accel, Confinement: report.Confinement,
		Devices: []string{qemu.DeviceEntropy, qemu.DeviceConsole, qemu.DeviceExit}})
	sinkEnd.Close()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, selftestWithin)
	defer cancel()
	stop := context.AfterFunc(ctx, vm.Kill)
	defer stop()
	in := bufio.NewScanner(output)
	last := ""
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		if c, ok := parseCheck(line); ok {
			sink(c)
		}
		if line != "" {
			last = line
		}
	}
	<-vm.Done()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if code, ok := vm.Code(); !ok || code > 1 {
		sink(Check{Name: "end", Detail: fmt.Sprintf("%s; it said last: %s", vm.Death(), last)})
	}
	return nil
}

// parseCheck reads "ok NAME TOOK DETAIL" or "FAIL NAME TOOK DETAIL".
func parseCheck(line string) (Check, bool) {
	f := strings.SplitN(line, " ", 4)
	if len(f) < 3 || f[0] != "ok" && f[0] != "FAIL" {
		return Check{}, false
	}
	c := Check{Name: f[1], OK: f[0] == "ok", Took: f[2]}
	if len(f) == 4 {
		c.Detail = f[3]
	}
	return c, true
}
