//go:debug decoratemappings=0

// Command image is a generated main in all but its application.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"lorica.dev/lorica/app/handler"
	"lorica.dev/lorica/pep/audit"
	"lorica.dev/lorica/pep/audit/channel"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/unikernel"
	"lorica.dev/lorica/unikernel/linux"
)

func main() {
	unikernel.Main(unikernel.Image{
		Plan:     "74656e64657274656e64657274656e64657274656e64657274656e6465727465",
		Platform: linux.New(),
		Net:      network(),
		Gates:    []unikernel.Gate{{Section: "firewall", Module: firewall.New()}},
		Guards:   []unikernel.Guard{{Section: "filter", Module: filter.New()}},
		Audit:    unikernel.Audit{Section: "audit", Module: audit.New(), Sinks: []unikernel.Sink{{Section: "audit-channel", Module: channel.New()}}},
		App:      handler.New(construct),
	})
}

func construct() (http.Handler, error) {
	fmt.Println("a line on standard output")
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		io.WriteString(w, "slow\n")
	})
	mux.HandleFunc("/open", func(http.ResponseWriter, *http.Request) { os.ReadFile("/etc/hostname") })
	return mux, nil
}
