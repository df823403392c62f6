// Command kernels boots other kernels than this machine's under QEMU and runs the
// tests of confinement in them, the kill tests of test/redteam among them: as root
// and as an ordinary user, with user namespaces and without, with Landlock and
// without. Each folder that it is given is called after a release of Debian and
// holds that release's vmlinuz; scripts/kernels fetches them. The same program is
// the first process of the machines.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

func main() {
	if os.Getpid() == 1 {
		guest()
		return
	}
	runtime.LockOSThread() // machines end with the thread that started them
	out := flag.String("out", "", "file to write the table to, where nothing failed")
	limit := flag.Duration("limit", 40*time.Minute, "the longest that one machine may take")
	counted := flag.Bool("counted", false, "have instructions make the time that passes in machines: slower, but no test runs out of time where this machine is busy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := host(ctx, flag.Args(), *out, *limit, *counted); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// A release is what the kernel of a release of Debian is known to give.
type release struct {
	landlock int // ABI
	mseal    bool
}

func releases() map[string]release {
	return map[string]release{"bullseye": {0, false}, "bookworm": {2, false}, "trixie": {6, true}}
}

func host(ctx context.Context, folders []string, out string, limit time.Duration, counted bool) error {
	if len(folders) == 0 {
		return errors.New("no kernel to boot: run make kernels")
	}
	dir, err := os.MkdirTemp("", "lorica-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("== building what runs in the machines")
	initrd := filepath.Join(dir, "initrd")
	if err := build(ctx, dir, initrd); err != nil {
		return err
	}
	accel, why := "tcg", "instructions are counted"
	if !counted {
		accel, why = accelerator(ctx, filepath.Join(folders[0], "vmlinuz"), dir)
	}
	fmt.Printf("== QEMU with %s: %s\n", accel, why)
	var rows []*row
	failed := 0
	for _, folder := range folders {
		name := filepath.Base(folder)
		gives, known := releases()[name]
		if !known {
			return fmt.Errorf("%s is not called after a release of Debian that is known here", folder)
		}
		boots := []string{"", withoutLandlock}
		if gives.landlock == 0 {
			boots = []string{usersOnly}
		}
		for _, options := range boots {
			want := gives
			if options == withoutLandlock {
				want.landlock = 0
			}
			fmt.Println("==", name, options)
			m := machine{counted: counted, accel: accel, kernel: filepath.Join(folder, "vmlinuz"), initrd: initrd, options: options, console: filepath.Join(dir, "console")}
			got, err := m.run(ctx, limit)
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			if err != nil {
				failed++
				fmt.Printf("   %v; the kernel's last words:\n%s\n", err, m.lastWords())
			}
			for _, r := range got {
				for _, w := range r.wrong(want) {
					failed++
					fmt.Printf("   %s: %s\n", r.run, w)
				}
			}
			rows = append(rows, got...)
		}
	}
	var table bytes.Buffer
	write(&table, rows)
	os.Stdout.Write(table.Bytes())
	if failed > 0 {
		return fmt.Errorf("%d failures", failed)
	}
	if out == "" {
		return nil
	}
	return os.WriteFile(out, append([]byte(heading), table.Bytes()...), 0o644)
}

// withoutLandlock boots with other security modules alone. Root differs there in
// nothing that it does not differ in with Landlock.
const withoutLandlock = "lsm=yama,apparmor " + usersOnly
