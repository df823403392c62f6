package control

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/wire"
)

// A Secret is a named value that a program refers to. It is never part of it.
type Secret struct {
	Name  string
	Value []byte
}

// Prepare asks the image to verify and prepare the program in a slot of the
// sealed memory. Answered by Prepared with the same Txn.
type Prepare struct {
	Txn     uint64
	Slot    uint8
	Length  uint32 // of the signed program, from the start of the slot
	Secrets []Secret
}

// Txn names a prepared program: content of Commit, Abort.
type Txn struct{ Txn uint64 }

// Prepared is the image's answer to Prepare. An empty Err is consent; the image
// then holds the state until Commit or Abort.
type Prepared struct {
	Txn uint64
	Err string
}

// Committed reports that the program in Slot decides every request from now on.
type Committed struct {
	Txn      uint64
	Slot     uint8
	Revision uint64
	Program  [32]byte
}

// Released reports that no request is under the program in Slot any more.
type Released struct{ Slot uint8 }

// Drain asks the image to stop accepting, to answer with Connection: close for
// Grace, to finish what is open within Limit, and to exit.
type Drain struct {
	Grace time.Duration
	Limit time.Duration
}

// Hello is the image's first word.
type Hello struct {
	Version uint32
	Plan    [32]byte
}

// Stats are counters since the image started.
type Stats struct {
	Requests    uint64
	Allowed     uint64
	Denied      uint64
	Connections uint64 // open now
	Refused     uint64 // connections that the firewall refused
	HeapBytes   uint64
	Goroutines  uint32
	Packets     Packets  // zero where the image has no network of its own, or no firewall
	Addresses   []string // that it has now; none where it has sockets
	Sinks       []Sink   // collectors of records
}

// Log is one line that the image or its application wrote.
type Log struct{ Line string }

// Records is a batch of decisions. Seq counts batches from one; the tender
// answers Ack with the Seq once the batch is in the spool.
type Records struct {
	Seq     uint64
	Records []audit.Record
}

// Fired reports that a trigger of a program asks for the level that it names there.
type Fired struct {
	At      int64    // ns since 1970
	Program [32]byte // digest
	Trigger string
}

// Ack is the tender's answer to Records.
type Ack struct{ Seq uint64 }

// Clock tells a microVM the time, in ns since 1970: what its own clock starts from is
// whole seconds, and its rate is a measurement.
type Clock struct{ Now int64 }

func (m Clock) Frame() Frame {
	var w wire.Writer
	w.I64(m.Now)
	return Frame{KindClock, w.Bytes()}
}

func (m Prepare) Frame() Frame {
	var w wire.Writer
	w.U64(m.Txn)
	w.U8(m.Slot)
	w.U32(m.Length)
	AppendSecrets(&w, m.Secrets)
	return Frame{KindPrepare, w.Bytes()}
}

// Frame encodes t as a message of kind k, KindCommit or KindAbort.
func (t Txn) Frame(k Kind) Frame {
	var w wire.Writer
	w.U64(t.Txn)
	return Frame{k, w.Bytes()}
}

func (m Drain) Frame() Frame {
	var w wire.Writer
	w.I64(int64(m.Grace))
	w.I64(int64(m.Limit))
	return Frame{KindDrain, w.Bytes()}
}

// Query asks for Stats.
func Query() Frame { return Frame{Kind: KindQuery} }

// Ready says that the image has sealed itself and answers requests.
func Ready() Frame { return Frame{Kind: KindReady} }

// Drained says that the image exits now.
func Drained() Frame { return Frame{Kind: KindDrained} }

func (m Ack) Frame() Frame {
	var w wire.Writer
	w.U64(m.Seq)
	return Frame{KindAck, w.Bytes()}
}

func (m Hello) Frame() Frame {
	var w wire.Writer
	w.U32(m.Version)
	w.Fixed(m.Plan[:])
	return Frame{KindHello, w.Bytes()}
}

func (m Prepared) Frame() Frame {
	var w wire.Writer
	w.U64(m.Txn)
	w.String(audit.Cut(m.Err, audit.MaxRecord))
	return Frame{KindPrepared, w.Bytes()}
}

func (m Committed) Frame() Frame {
	var w wire.Writer
	w.U64(m.Txn)
	w.U8(m.Slot)
	w.U64(m.Revision)
	w.Fixed(m.Program[:])
	return Frame{KindCommitted, w.Bytes()}
}

func (m Released) Frame() Frame { return Frame{KindReleased, []byte{m.Slot}} }

func (m Stats) Frame() Frame {
	var w wire.Writer
	for _, v := range []uint64{m.Requests, m.Allowed, m.Denied, m.Connections, m.Refused, m.HeapBytes} {
		w.U64(v)
	}
	w.U32(m.Goroutines)
	m.Packets.write(&w)
	w.Strings(m.Addresses)
	writeSinks(&w, m.Sinks)
	return Frame{KindStats, w.Bytes()}
}

func (m Log) Frame() Frame {
	var w wire.Writer
	w.String(audit.Cut(m.Line, audit.MaxRecord))
	return Frame{KindLog, w.Bytes()}
}

func (m Fired) Frame() Frame {
	var w wire.Writer
	w.I64(m.At)
	w.Fixed(m.Program[:])
	w.String(audit.Cut(m.Trigger, audit.MaxField))
	return Frame{KindFired, w.Bytes()}
}

func (m Records) Frame() Frame {
	var w wire.Writer
	w.U64(m.Seq)
	w.U32(uint32(len(m.Records)))
	for i := range m.Records {
		m.Records[i].Append(&w)
	}
	return Frame{KindRecords, w.Bytes()}
}

// AppendSecrets encodes a list of secrets.
func AppendSecrets(w *wire.Writer, list []Secret) {
	w.U32(uint32(len(list)))
	for _, s := range list {
		w.String(s.Name)
		w.Blob(s.Value)
	}
}

// ReadSecrets decodes a list of secrets; the values are copies.
func ReadSecrets(r *wire.Reader) []Secret {
	var list []Secret
	for range r.Count(8) {
		list = append(list, Secret{Name: r.String(), Value: append([]byte(nil), r.Blob()...)})
	}
	return list
}

// Decode reads the content of f as the message of its kind: a Prepare, Txn,
// Drain, Ack, Hello, Prepared, Committed, Released, Stats, Log, Fired or Records; nil
// for the kinds without content. Launch has its own package.
func (f Frame) Decode() (any, error) {
	r := wire.NewReader(f.Payload)
	var m any
	switch f.Kind {
	case KindPrepare:
		m = Prepare{Txn: r.U64(), Slot: r.U8(), Length: r.U32(), Secrets: ReadSecrets(r)}
	case KindCommit, KindAbort:
		m = Txn{r.U64()}
	case KindDrain:
		d := Drain{Grace: time.Duration(r.I64()), Limit: time.Duration(r.I64())}
		if d.Grace < 0 || d.Limit < 0 {
			r.Fail(errors.New("negative duration"))
		}
		m = d
	case KindQuery, KindReady, KindDrained:
	case KindAck:
		m = Ack{r.U64()}
	case KindClock:
		m = Clock{r.I64()}
	case KindHello:
		h := Hello{Version: r.U32()}
		copy(h.Plan[:], r.Fixed(len(h.Plan)))
		m = h
	case KindPrepared:
		m = Prepared{Txn: r.U64(), Err: r.String()}
	case KindCommitted:
		c := Committed{Txn: r.U64(), Slot: r.U8(), Revision: r.U64()}
		copy(c.Program[:], r.Fixed(len(c.Program)))
		m = c
	case KindReleased:
		m = Released{r.U8()}
	case KindStats:
		m = Stats{r.U64(), r.U64(), r.U64(), r.U64(), r.U64(), r.U64(), r.U32(), readPackets(r), r.Strings(), readSinks(r)}
	case KindLog:
		m = Log{r.String()}
	case KindFired:
		f := Fired{At: r.I64()}
		copy(f.Program[:], r.Fixed(len(f.Program)))
		if f.Trigger = r.String(); len(f.Trigger) > audit.MaxField {
			r.Fail(errors.New("the name of a trigger is too long"))
		}
		m = f
	case KindRecords:
		b := Records{Seq: r.U64()}
		for range r.Count(audit.MinRecord) {
			b.Records = append(b.Records, audit.Read(r))
		}
		m = b
	default:
		return nil, &FrameError{fmt.Sprintf("kind %d is unknown", f.Kind)}
	}
	if err := r.Close(); err != nil {
		return nil, &FrameError{fmt.Sprintf("kind %d: %v", f.Kind, err)}
	}
	return m, nil
}
