package policy_test

import (
	"strings"
	"testing"

	"lorica.dev/lorica/api"
)

func TestRetarget(t *testing.T) {
	for name, c := range map[string]struct {
		written, target, network string
		want                     string // target and network; empty: refused
	}{
		"as written":                      {"target: process\n  network: direct", "", "", "process direct"},
		"nothing written":                 {"target: process", "", "", "process "},
		"another target":                  {"target: process", api.TargetMicroVM, "", "microvm "},
		"another network":                 {"target: process\n  network: direct", "", api.NetSocket, "process socket"},
		"sockets are of the other target": {"target: process\n  network: socket", api.TargetMicroVM, "", "microvm "},
		"direct is of both":               {"target: process\n  network: direct", api.TargetMicroVM, "", "microvm direct"},
		"both":                            {"target: microvm", api.TargetProcess, api.NetSocket, "process socket"},
		"sockets in a microvm":            {"target: microvm", "", api.NetSocket, ""},
		"sockets in another microvm":      {"target: process", api.TargetMicroVM, api.NetSocket, ""},
	} {
		b, err := parse("", strings.Replace(base, "  app:", "  "+c.written+"\n  app:", 1))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = b.Retarget(c.target, c.network)
		w := b.Deployments[0].Workload
		switch {
		case c.want == "":
			if err == nil || !strings.Contains(err.Error(), "a stack of its own") {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || w.Target+" "+w.Network != c.want:
			t.Errorf("%s: %s %s, %v", name, w.Target, w.Network, err)
		case strings.Contains(c.written, "network:") && c.network == "" && w.Network != "" && w.NetworkPos.Line == 0:
			t.Errorf("%s: it is not said where the network is written", name)
		}
	}
}

// Where the memory of a microVM is too little for one password, the first login would end its image.
func TestPasswordsFitAMachine(t *testing.T) {
	dir := folder(t)
	for _, c := range []struct {
		memory, target, then string
		want                 string
	}{
		{"39Mi", "microvm", "", "verifying a password takes 19Mi, and the microVM of workload shop has 39Mi for everything (write resources: {memory: 40Mi} or more"},
		{"39Mi", "process", "microvm", "has 39Mi for everything"},
		{"40Mi", "microvm", "", ""},
		{"32Mi", "process", "", ""},
		{"32Mi", "microvm", "process", "has 32Mi for everything"},
	} {
		b, err := parse(dir, strings.Replace(base, "  app:\n", "  resources: {memory: "+c.memory+"}\n  target: "+c.target+"\n  app:\n", 1))
		if err == nil {
			err = b.Retarget(c.then, "")
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: %v", c, err)
		}
	}
}
