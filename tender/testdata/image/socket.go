//go:build !direct

package main

import (
	"lorica.dev/lorica/netstack/socket"
	"lorica.dev/lorica/unikernel"
)

func network() unikernel.Net { return socket.New() }
