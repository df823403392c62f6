// Command stack is an image that tests the network in a machine: it sends back what
// clients of its first listener say, answers HTTP on its second, and connects to where
// it is told. It ends when it is asked to, with code 0 if everybody was heard out.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/netstack/card"
	"lorica.dev/lorica/netstack/ip6"
)

func main() {
	const limit = 10 << 20
	debug.SetMemoryLimit(limit)
	n := card.New(ip6.New())
	check(n.Open(&launch.Params{MemoryLimit: limit, Link: launch.Link{Verified: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("169.254.76.2/30"), netip.MustParsePrefix("fd6c:6f72:6963:62::2/126")},
		Hosts: []netip.Addr{netip.MustParseAddr("169.254.76.1"), netip.MustParseAddr("fd6c:6f72:6963:62::1")}}}))
	words, err := n.Listen(0, launch.Listener{Name: "words", Bind: 1024})
	check(err)
	web, err := n.Listen(1, launch.Listener{Name: "web", Bind: 1025})
	check(err)
	check(kernel.Seal())

	var talks sync.WaitGroup
	talks.Go(func() {
		for c, err := words.Accept(); err == nil; c, err = words.Accept() {
			talks.Go(func() { mirror(c) })
		}
	})
	end := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.RemoteAddr) })
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) })
	mux.HandleFunc("GET /to/{host}", func(w http.ResponseWriter, r *http.Request) {
		c, err := n.Connect(r.Context(), r.PathValue("host"), 7)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer c.Close()
		io.WriteString(c, "words")
		c.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(w, c)
	})
	mux.HandleFunc("GET /memory", func(w http.ResponseWriter, r *http.Request) {
		free, total := kernel.Memory()
		fmt.Fprintf(w, "%d KiB of %d are free", free>>10, total>>10)
	})
	mux.HandleFunc("GET /end", func(w http.ResponseWriter, r *http.Request) { close(end) })
	server := http.Server{Handler: mux}
	go server.Serve(web)
	fmt.Println("stack: ready")

	<-end
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	words.Close()
	talks.Wait()
	check(server.Shutdown(ctx))
	check(n.Settle(ctx))
	kernel.Exit(0)
}

func mirror(c net.Conn) {
	defer c.Close()
	if _, err := io.Copy(c, c); err == nil {
		c.(interface{ CloseWrite() error }).CloseWrite()
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("stack: FAILED:", err)
		os.Exit(1)
	}
}
