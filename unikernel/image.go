// Package unikernel is the life of an image: launch, boot, seal, serve, swap of
// programs, drain. The generated main calls Main and nothing else.
package unikernel

import (
	"net"
	"net/http"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// An Image is what the generated main is made of: plain data, in chain order.
type Image struct {
	Plan   string // 64 hexadecimal digits
	Net    Net
	Gates  []Gate
	TLS    TLS
	Guards []Guard
	Audit  Audit
	Egress Egress
	App    App
}

// A Net turns the descriptors of the launch into listeners, before the seal.
type Net interface {
	Listen(fd int, l launch.Listener) (net.Listener, error)
}

// A Gate is a module that judges connections, and the section it takes.
type Gate struct {
	Section string
	Module  pep.Gate
}

// A Guard is a module that judges requests, and the section it takes.
type Guard struct {
	Section string
	Module  pep.Guard
}

// TLS is the module that secures connections, and the section it takes; the
// zero TLS leaves them plain.
type TLS struct {
	Section string
	Module  pep.Transport
}

// Egress is the module that makes connections out of the image, and the section
// it takes; the zero Egress makes none.
type Egress struct {
	Section string
	Module  pep.Outbound
}

// Audit is the module that records decisions, and the section it takes.
type Audit struct {
	Section string
	Module  pep.Auditor
}

// An App constructs the application. It runs once, after the seal.
type App func() (http.Handler, error)
