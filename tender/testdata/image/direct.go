//go:build direct

package main

import (
	"lorica.dev/lorica/netstack/ip6"
	"lorica.dev/lorica/netstack/tap"
	"lorica.dev/lorica/unikernel"
)

func network() unikernel.Net { return tap.New(ip6.New()) }
