package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// specs are launches of every kind; nothing is opened for them.
func specs() map[string]Spec {
	f := os.Stdin
	return map[string]Spec{
		"bare": {Image: f, RAM: &RAM{size: 64 << 20}, Output: f, Accel: TCG},
		"served": {Image: f, RAM: &RAM{size: 176 << 20, at: 128 << 20, window: make([]byte, 48<<20)}, Output: f, Accel: TCG,
			Devices: []string{DeviceNet, DeviceControl, DeviceEntropy, DeviceConsole, DeviceExit}, Control: f, Net: f, Network: Stream, MTU: 16384},
		"under-kvm": {Image: f, RAM: &RAM{size: 4 << 30, at: 3<<30 - 48<<20, window: make([]byte, 4096)}, Output: f, Accel: KVM,
			Devices: []string{DeviceExit, DeviceNet}, Net: f, Network: Interface, Arguments: "a=b c"},
	}
}

// What QEMU is started with is read in review.
func TestArguments(t *testing.T) {
	for name, s := range specs() {
		if err := s.validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := strings.ReplaceAll(strings.Join(s.command(os.Stdin).args, " "), " -", "\n-") + "\n"
		file := filepath.Join("testdata", name+".args")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s\ngo test ./tender/qemu -run Arguments -update rewrites it", name, got, want)
		}
	}
}

// Each device is there only where it is named.
func TestDevicesAreThoseThatAreNamed(t *testing.T) {
	words := map[string]string{DeviceNet: "virtio-net-device", DeviceControl: "virtserialport", DeviceEntropy: "virtio-rng-device", DeviceConsole: "isa-serial=on", DeviceExit: "isa-debug-exit"}
	for device := range words {
		s := Spec{Image: os.Stdin, RAM: &RAM{size: 64 << 20}, Output: os.Stdin, Accel: TCG, Devices: []string{device}}
		switch device {
		case DeviceNet:
			s.Net, s.Network = os.Stdin, Stream
		case DeviceControl:
			s.Control = os.Stdin
		}
		if err := s.validate(); err != nil {
			t.Errorf("%s: %v", device, err)
		}
		line := strings.Join(s.command(os.Stdin).args, " ")
		for other, word := range words {
			if strings.Contains(line, word) != (other == device) {
				t.Errorf("%s: %q is in %q: %v", device, word, line, other != device)
			}
		}
	}
}

func TestLaunchesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no image":                {func(s *Spec) { s.Image = nil }, "missing"},
		"no memory":               {func(s *Spec) { s.RAM = nil }, "missing"},
		"no output":               {func(s *Spec) { s.Output = nil }, "missing"},
		"an unknown device":       {func(s *Spec) { s.Devices = append(s.Devices, "floppy,x") }, `device "floppy,x"`},
		"a device twice":          {func(s *Spec) { s.Devices = append(s.Devices, DeviceExit) }, "each once"},
		"no control channel":      {func(s *Spec) { s.Control = nil }, "need each other"},
		"control without device":  {func(s *Spec) { s.Devices = []string{DeviceNet} }, "need each other"},
		"no network":              {func(s *Spec) { s.Net = nil }, "need each other"},
		"network without device":  {func(s *Spec) { s.Devices = []string{DeviceControl} }, "need each other"},
		"no kind of network":      {func(s *Spec) { s.Network = 0 }, "kind 0"},
		"another kind of network": {func(s *Spec) { s.Network = Interface + 1 }, "kind 3"},
		"an endless MTU":          {func(s *Spec) { s.MTU = 1 << 16 }, "MTU of 65536"},
		"a negative MTU":          {func(s *Spec) { s.MTU = -1 }, "MTU of -1"},
		"no accelerator":          {func(s *Spec) { s.Accel = "" }, `accelerator ""`},
		"another accelerator":     {func(s *Spec) { s.Accel = "hvf" }, `accelerator "hvf"`},
	} {
		s := specs()["served"]
		c.change(&s)
		if v, err := (&Host{}).Launch(nil, s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v", name, v, err)
		}
	}
}
