package main

import (
	"bytes"
	"os"
	"strings"
	"syscall"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/launch"
)

// say writes to the dial socket whatever it is told.
func say(b []byte) func(*image) {
	return func(i *image) {
		syscall.Write(launch.DialFD, b)
		forever(i)
	}
}

func ask(id uint64) []byte { return egress.Dial{ID: id, Host: "127.0.0.1", Port: 9}.Encode() }

func longMessage() []byte { return bytes.Repeat([]byte{1}, 4096) }

// passDescriptors sends its own channel to the tender, while it still can.
func passDescriptors(*image) {
	check(syscall.Sendmsg(launch.DialFD, ask(1), syscall.UnixRights(launch.ControlFD, launch.ProgramFD, 0, 1, 2), nil, 0))
}

// askOften asks without end. It hears the answers, or not.
func askOften(hear bool) func(*image) {
	return func(i *image) {
		go i.obey()
		if hear {
			go func() {
				b := make([]byte, egress.MaxMessage)
				for {
					syscall.Read(launch.DialFD, b)
				}
			}()
		}
		for id := uint64(1); ; id++ {
			syscall.Write(launch.DialFD, egress.Dial{ID: id, Host: strings.Repeat("x", 60) + ".test", Port: uint16(id)}.Encode())
		}
	}
}

// report asks for what is allowed and says what it got.
func report(i *image) {
	addr := ""
	for _, s := range i.params.First.Secrets {
		if s.Name == "port" {
			addr = string(s.Value)
		}
	}
	port := uint16(0)
	for _, c := range addr {
		port = port*10 + uint16(c-'0')
	}
	for id, host := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "169.254.169.254"} {
		syscall.Write(launch.DialFD, egress.Dial{ID: uint64(id), Host: host, Port: port}.Encode())
		b, oob := make([]byte, egress.MaxMessage), make([]byte, syscall.CmsgSpace(4))
		n, oobn, _, _, err := syscall.Recvmsg(launch.DialFD, b, oob, syscall.MSG_CMSG_CLOEXEC)
		check(err)
		m, err := egress.FromTender(b[:n])
		check(err)
		_, opened := m.(egress.Opened)
		os.Stderr.WriteString("dialed " + host + map[bool]string{true: ": connected\n", false: ": refused\n"}[opened && oobn > 0])
	}
}
