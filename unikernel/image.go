// Package unikernel is the life of an image: launch, boot, seal, serve, swap of
// programs, drain. The generated main calls Main and nothing else.
package unikernel

import (
	"io"
	"net"
	"net/http"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// An Image is what the generated main is made of: plain data, in chain order.
type Image struct {
	Plan     string // 64 hexadecimal digits
	Platform Platform
	Net      Net
	Gates    []Gate
	TLS      TLS
	Guards   []Guard
	Audit    Audit
	Egress   Egress
	App      App
}

// A Platform is what the image runs on. Its methods are called once each, in this
// order.
type Platform interface {
	// Control returns the channel to the tender.
	Control() (io.ReadWriter, error)
	// Window returns the memory that programs lie in, of Slots times SlotSize bytes,
	// which the tender writes and the image cannot. It lowers p.MemoryLimit to what
	// there is.
	Window(p *launch.Params) ([]byte, error)
	// Seal gives up, for good, what the image needs no more.
	Seal(p *launch.Params) error
}

// A Net is the network of the image. It is opened, and listens, before the seal.
type Net interface {
	Open(p *launch.Params) error
	// Listen returns listener i of the launch parameters.
	Listen(i int, l launch.Listener) (net.Listener, error)
	pep.Connector
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

// Audit is the module that records decisions, the section it takes, and where records are
// kept: at least in one sink.
type Audit struct {
	Section string
	Module  pep.Auditor
	Sinks   []Sink
}

// A Sink is a module that takes records, and the section it takes.
type Sink struct {
	Section string
	Module  pep.Sink
}

// An App constructs the application. It runs once, after the seal.
type App func() (http.Handler, error)
