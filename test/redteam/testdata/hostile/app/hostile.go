// Package hostile is an application that somebody else has taken over. What a
// request of its attacker says, it does, with all that code in an image can do:
// unsafe memory, raw system calls, assembly, and in a machine all of ring 0.
package hostile

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"syscall"
)

// An order is the body of a request: an attack by its name, or system calls, one
// after another.
type order struct {
	Attack string
	Calls  []systemCall
}

// A systemCall has arguments that are numbers or the name of something in the
// memory of the image.
type systemCall struct {
	Entry string // "" for the one of x86-64, "int80" for the one of i386
	Nr    uintptr
	Args  []string
}

// A result is what a call returned, or what an attack has to say.
type result struct {
	R     uintptr
	Errno syscall.Errno
	Text  string
}

// New returns the application.
func New() (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var out []result
		for _, c := range o.Calls {
			out = append(out, c.make())
		}
		if o.Attack != "" {
			run := named(o.Attack)
			if run == nil {
				http.Error(w, "no attack is called "+o.Attack, http.StatusBadRequest)
				return
			}
			out = append(out, run())
		}
		json.NewEncoder(w).Encode(out)
	}), nil
}

// named returns an attack, nil where there is none of that name.
func named(name string) func() result {
	if device := onDevices[name]; device != nil {
		return later(func() {
			if t, err := findTables(); err == nil {
				device(t)
			}
		})
	}
	if run := ring0[name]; run != nil {
		return run
	}
	return attacks[name]
}

func int80(nr, a, b, c uintptr) uintptr

func (c systemCall) make() result {
	var a [6]uintptr
	for i, word := range c.Args {
		a[i] = argument(word)
	}
	if c.Entry == "int80" {
		return result{R: int80(c.Nr, a[0], a[1], a[2])}
	}
	r, _, e := syscall.Syscall6(c.Nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return result{R: r, Errno: e}
}

// argument returns the value of a word: a number, or one of things.
func argument(word string) uintptr {
	if thing, ok := things[word]; ok {
		return thing()
	}
	n, err := strconv.ParseInt(word, 0, 64)
	if err != nil {
		panic(fmt.Sprintf("no argument is called %q", word))
	}
	return uintptr(n)
}
