// Package program is the container of a policy as it is enforced: data, signed,
// named by its digest, for one plan and one security level.
//
// A program is a header, named sections (one per enforcement module), and an
// Ed25519 signature over all that precedes it. An image accepts a program only
// for its own plan id, only from its trust root, and never with a revision
// below one it has enforced. See docs/program-format.md.
package program

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"lorica.dev/lorica/abi/wire"
)

const magic = "LORICAP1"

// context separates program signatures from any other use of the same key.
const context = "lorica program v1\x00"

// MaxSize bounds a signed program; it is the size of a slot in the sealed memory.
const MaxSize = 16 << 20

// Errors of Open, in the order in which they are checked.
var (
	ErrSignature = errors.New("program: the signature is not from the trust root")
	ErrFormat    = errors.New("program: malformed")
)

// A PlanID names what an image was generated for: the hash of its modules,
// toolchain, target and application.
type PlanID [32]byte

func (p PlanID) String() string { return "plan:" + hex.EncodeToString(p[:]) }

// ParsePlanID reads the 64 hexadecimal digits of a plan id.
func ParsePlanID(s string) (PlanID, error) {
	var p PlanID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(p) {
		return PlanID{}, fmt.Errorf("program: %q is not a plan id", s)
	}
	copy(p[:], b)
	return p, nil
}

// A Digest is the SHA-256 of a signed program.
type Digest [32]byte

func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// A Section is one module's part of a program.
type Section struct {
	Name string // the module's stage, for example "authz"
	Data []byte
}

// A Program is the content of a container. Sections keep their order.
type Program struct {
	Plan     PlanID
	Revision uint64   // monotonic per deployment
	Tenant   string   //
	Workload string   //
	Policy   string   // name of the SecurityPolicy; empty when there is none
	Levels   []string // level names from the lowest to the one this program is for
	Sections []Section
}

// Level returns the level the program is for.
func (p *Program) Level() string {
	if len(p.Levels) == 0 {
		return ""
	}
	return p.Levels[len(p.Levels)-1]
}

// Section returns the named section, or nil, which every module must read as
// "deny".
func (p *Program) Section(name string) []byte {
	for _, s := range p.Sections {
		if s.Name == name {
			return s.Data
		}
	}
	return nil
}

// Content returns the digest of what the program enforces: everything but the
// plan and the revision. Equal contents enforce the same policy.
func (p *Program) Content() Digest {
	c := *p
	c.Plan, c.Revision = PlanID{}, 0
	h := sha256.New()
	c.encode(h)
	return Digest(h.Sum(nil))
}

// encode writes the body; w takes it without an error. Sections, which may be of
// megabytes, are written from where they are.
func (p *Program) encode(w io.Writer) {
	var b wire.Writer
	b.Fixed([]byte(magic))
	b.Fixed(p.Plan[:])
	b.U64(p.Revision)
	b.String(p.Tenant)
	b.String(p.Workload)
	b.String(p.Policy)
	b.Strings(p.Levels)
	b.U32(uint32(len(p.Sections)))
	for _, s := range p.Sections {
		b.String(s.Name)
		b.U32(uint32(len(s.Data)))
		w.Write(b.Bytes())
		w.Write(s.Data)
		b = wire.Writer{}
	}
	w.Write(b.Bytes())
}

// Sign encodes and signs p. The same program and key give the same bytes.
func Sign(p *Program, key ed25519.PrivateKey) ([]byte, error) {
	size := 1 << 10 // more than most need besides sections
	for _, s := range p.Sections {
		size += len(s.Data)
	}
	message := bytes.NewBuffer(make([]byte, 0, len(context)+size+ed25519.SignatureSize))
	message.WriteString(context)
	p.encode(message)
	if n := message.Len() - len(context); n+ed25519.SignatureSize > MaxSize {
		return nil, fmt.Errorf("program: %d bytes; the limit is %d", n, MaxSize-ed25519.SignatureSize)
	}
	message.Write(ed25519.Sign(key, message.Bytes()))
	return message.Bytes()[len(context):], nil
}

// Sum returns the digest of a signed program.
func Sum(signed []byte) Digest { return sha256.Sum256(signed) }

// Open verifies the signature and decodes. Section data aliases signed. Its
// errors wrap ErrSignature or ErrFormat.
func Open(signed []byte, trust ed25519.PublicKey) (*Program, error) {
	n := len(signed) - ed25519.SignatureSize
	if n < 0 || n > MaxSize-ed25519.SignatureSize || len(trust) != ed25519.PublicKeySize {
		return nil, ErrSignature
	}
	// A key that nobody set is a point of order four, for which anybody can
	// make signatures.
	if bytes.Equal(trust, make([]byte, ed25519.PublicKeySize)) {
		return nil, ErrSignature
	}
	if !ed25519.Verify(trust, append([]byte(context), signed[:n]...), signed[n:]) {
		return nil, ErrSignature
	}
	return Decode(signed[:n])
}

// Decode reads an unsigned body. Use Open wherever the bytes are not one's own.
func Decode(body []byte) (*Program, error) {
	r := wire.NewReader(body)
	if !bytes.Equal(r.Fixed(len(magic)), []byte(magic)) {
		return nil, fmt.Errorf("%w: no %s header", ErrFormat, magic)
	}
	p := &Program{}
	copy(p.Plan[:], r.Fixed(len(p.Plan)))
	p.Revision = r.U64()
	p.Tenant, p.Workload, p.Policy = r.String(), r.String(), r.String()
	p.Levels = r.Strings()
	for range r.Count(8) {
		s := Section{Name: r.String(), Data: r.Blob()}
		if r.Err() == nil && p.Section(s.Name) != nil {
			r.Fail(fmt.Errorf("section %q twice", s.Name))
		}
		p.Sections = append(p.Sections, s)
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return p, nil
}
