// Package wire is the bounded little-endian encoding under every section of the
// contract.
//
// A Reader never panics and never allocates more than the input could justify:
// counts are checked against the bytes that remain. After the first error every
// read returns zero values, so that callers check once, at Close.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort reports input that ends before its content does.
var ErrShort = errors.New("wire: input is too short")

// A Writer appends values to a buffer. The zero Writer is ready to use.
type Writer struct{ buf []byte }

// Bytes returns what was written so far.
func (w *Writer) Bytes() []byte { return w.buf }

// Len returns the number of bytes written so far.
func (w *Writer) Len() int { return len(w.buf) }

func (w *Writer) U8(v uint8)   { w.buf = append(w.buf, v) }
func (w *Writer) U16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *Writer) U32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *Writer) U64(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }
func (w *Writer) I64(v int64)  { w.U64(uint64(v)) }

// Bool writes one byte, 0 or 1.
func (w *Writer) Bool(v bool) {
	if v {
		w.U8(1)
	} else {
		w.U8(0)
	}
}

// Fixed writes b as it is, with no length before it.
func (w *Writer) Fixed(b []byte) { w.buf = append(w.buf, b...) }

// Blob writes a 32-bit length and b.
func (w *Writer) Blob(b []byte) {
	w.U32(uint32(len(b)))
	w.Fixed(b)
}

// String writes a 32-bit length and s.
func (w *Writer) String(s string) {
	w.U32(uint32(len(s)))
	w.buf = append(w.buf, s...)
}

// Strings writes a count and each string.
func (w *Writer) Strings(list []string) {
	w.U32(uint32(len(list)))
	for _, s := range list {
		w.String(s)
	}
}

// A Reader takes values off a byte slice. It is not safe for concurrent use.
type Reader struct {
	b   []byte
	err error
}

// NewReader reads from b, which it neither copies nor changes.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Err returns the first error met.
func (r *Reader) Err() error { return r.err }

// Fail records err unless an earlier one stands.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// Remaining returns the number of bytes not read yet.
func (r *Reader) Remaining() int { return len(r.b) }

// Close returns the first error met, or an error if bytes are left over.
func (r *Reader) Close() error {
	if r.err == nil && len(r.b) > 0 {
		r.Fail(fmt.Errorf("wire: %d bytes left over", len(r.b)))
	}
	return r.err
}

// Fixed returns the next n bytes, aliasing the input; nil after an error.
func (r *Reader) Fixed(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.Fail(ErrShort)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *Reader) U8() uint8 {
	if b := r.Fixed(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *Reader) U16() uint16 {
	if b := r.Fixed(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *Reader) U32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *Reader) U64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *Reader) I64() int64 { return int64(r.U64()) }

// Bool accepts 0 and 1 only, so that every value has one encoding.
func (r *Reader) Bool() bool {
	v := r.U8()
	if v > 1 {
		r.Fail(fmt.Errorf("wire: %d is not a truth value", v))
	}
	return v == 1 && r.err == nil
}

// Blob reads a length and as many bytes, aliasing the input.
func (r *Reader) Blob() []byte { return r.Fixed(r.Count(1)) }

// String reads a length and a string.
func (r *Reader) String() string { return string(r.Blob()) }

// Strings reads a count and as many strings.
func (r *Reader) Strings() []string {
	n := r.Count(4)
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, r.String())
	}
	return list
}

// Count reads a 32-bit count of elements of at least size bytes each and
// refuses one that the rest of the input cannot hold.
func (r *Reader) Count(size int) int {
	n := r.U32()
	if r.err != nil {
		return 0
	}
	if uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.Fail(ErrShort)
		return 0
	}
	return int(n)
}
