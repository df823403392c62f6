// Command lorica is a guest with the kernel, the devices and the network of an image,
// and the application alone.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/netstack/card"
	"lorica.dev/lorica/test/bench/guests/handler"
)

func main() {
	fmt.Println("guest:", serve())
	os.Exit(1)
}

func serve() error {
	if !kernel.Booted() {
		return errors.New("this is to be booted as a machine")
	}
	addr, err := address()
	if err != nil {
		return err
	}
	free, _ := kernel.Memory()
	handler.Limit(free)
	n := card.New()
	here := launch.Link{Addrs: []netip.Prefix{addr}, Hosts: []netip.Addr{addr.Masked().Addr().Next()}}
	if err := n.Open(&launch.Params{MemoryLimit: free, Link: here}); err != nil {
		return err
	}
	l, err := n.Listen(0, launch.Listener{Name: "http", Port: handler.Port, Bind: handler.Port})
	if err != nil {
		return err
	}
	if err := kernel.Seal(); err != nil {
		return err
	}
	fmt.Println(handler.Serving)
	return http.Serve(l, handler.New(kernel.Memory))
}

// address is that of the guest; the host has the first of its network.
func address() (netip.Prefix, error) {
	for w := range strings.FieldsSeq(kernel.CommandLine()) {
		if a, ok := strings.CutPrefix(w, "lorica_addr="); ok {
			return netip.ParsePrefix(a)
		}
	}
	return netip.Prefix{}, errors.New("the command line has no lorica_addr")
}
