package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"

	"lorica.dev/lorica/abi/wire"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	var w wire.Writer
	w.U8(7)
	w.U16(0xbeef)
	w.U32(0xdeadbeef)
	w.U64(math.MaxUint64)
	w.I64(math.MinInt64)
	w.Bool(true)
	w.Bool(false)
	w.Fixed([]byte{1, 2, 3})
	w.Blob([]byte("blob"))
	w.String("text")
	w.Strings([]string{"", "b"})
	w.Strings(nil)
	if w.Len() != len(w.Bytes()) {
		t.Errorf("Len %d, %d bytes", w.Len(), len(w.Bytes()))
	}
	r := wire.NewReader(w.Bytes())
	got := []any{r.U8(), r.U16(), r.U32(), r.U64(), r.I64(), r.Bool(), r.Bool(), string(r.Fixed(3)), string(r.Blob()), r.String(), r.Strings(), r.Strings()}
	want := []any{uint8(7), uint16(0xbeef), uint32(0xdeadbeef), uint64(math.MaxUint64), int64(math.MinInt64), true, false, "\x01\x02\x03", "blob", "text", []string{"", "b"}, []string(nil)}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestEveryTruncationFailsAndReadsZero(t *testing.T) {
	var w wire.Writer
	w.U64(1)
	w.String("text")
	w.Strings([]string{"a", "b"})
	full := w.Bytes()
	for n := range full {
		r := wire.NewReader(full[:n])
		r.U64()
		_ = r.String()
		r.Strings()
		if r.Close() == nil {
			t.Errorf("%d of %d bytes were enough", n, len(full))
		}
		if r.U8() != 0 || r.String() != "" || r.Strings() != nil || r.Count(0) != 0 || r.Bool() || r.Remaining() != 0 {
			t.Errorf("%d bytes: reads after an error give values", n)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		read func(*wire.Reader)
	}{
		"a truth value of two":                       {[]byte{2}, func(r *wire.Reader) { r.Bool() }},
		"left over bytes":                            {[]byte{1, 2}, func(r *wire.Reader) { r.U8() }},
		"a count beyond the input":                   {[]byte{2, 0, 0, 0, 9}, func(r *wire.Reader) { r.Count(1) }},
		"a count whose size overflows 32 bits":       {[]byte{0xff, 0xff, 0xff, 0xff, 9}, func(r *wire.Reader) { r.Count(1 << 20) }},
		"a blob of 4 GiB":                            {[]byte{0xff, 0xff, 0xff, 0xff}, func(r *wire.Reader) { r.Blob() }},
		"a fixed field of negative length":           {[]byte{1}, func(r *wire.Reader) { r.Fixed(-1) }},
		"more strings than their lengths could hold": {[]byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, func(r *wire.Reader) { r.Strings() }},
	} {
		r := wire.NewReader(c.in)
		c.read(r)
		if r.Close() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestTheFirstErrorStands(t *testing.T) {
	first := errors.New("first")
	r := wire.NewReader([]byte{1, 2, 3})
	r.Fail(first)
	r.U64()
	if got := r.Close(); got != first {
		t.Errorf("got %v", got)
	}
}

func TestFixedCannotGrowIntoWhatFollows(t *testing.T) {
	in := []byte{1, 2, 3, 4}
	r := wire.NewReader(in)
	b := append(r.Fixed(2), 9)
	if in[2] != 3 || !bytes.Equal(b, []byte{1, 2, 9}) {
		t.Errorf("the input is now %v", in)
	}
}

// The first bytes of the input say what to read from the rest.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	f.Add([]byte("\x07\x08\x04\x00\x00\x00text\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		ops := in[:min(len(in), 16)]
		r := wire.NewReader(in[len(ops):])
		before := r.Remaining()
		for _, op := range ops {
			switch op % 10 {
			case 0:
				r.U8()
			case 1:
				r.U16()
			case 2:
				r.U32()
			case 3:
				r.U64()
			case 4:
				r.I64()
			case 5:
				r.Bool()
			case 6:
				r.Fixed(int(op))
			case 7:
				r.Blob()
			case 8:
				r.Strings()
			case 9:
				if n := r.Count(int(op)); n*int(op) > r.Remaining() {
					t.Fatalf("a count of %d elements of %d bytes with %d bytes left", n, op, r.Remaining())
				}
			}
			if r.Remaining() > before {
				t.Fatal("bytes came back")
			}
			before = r.Remaining()
			if r.Err() != nil && before != 0 {
				t.Fatal("bytes remain after an error")
			}
		}
	})
}
