package authz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"mime"
	"net/url"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authz/strictjson"
)

// A problem is why the facts of a request cannot be had. It denies.
type problem struct {
	rule   string
	reason string
}

func missing(a *authz.Attribute) *problem {
	return &problem{abi.RuleAttribute, fmt.Sprintf("attribute %q (%s) has no value", a.Name, origin(a.Source))}
}

func malformed(a *authz.Attribute, err error) *problem {
	return &problem{abi.RuleRequest, fmt.Sprintf("attribute %q (%s): %v", a.Name, origin(a.Source), err)}
}

func origin(s authz.Source) string {
	switch s.Kind {
	case authz.SourceLevel:
		return "level"
	case authz.SourceHour:
		return "clock.hour"
	case authz.SourcePeer:
		return "peer.address"
	case authz.SourceMethod:
		return "request.method"
	case authz.SourceRoute:
		return "route." + s.Arg
	case authz.SourceQuery:
		return "query." + s.Arg
	case authz.SourceHeader:
		return "header." + s.Arg
	}
	return "body.json:" + s.Arg
}

var errTwice = errors.New("it is given twice")

// gather fills the attributes in the set reads, but for those of the level, and
// appends everything that it learned to key. Values alias key or its earlier
// arrays, which is fine until the next use of key.
func (s *state) gather(w *workspace, x *pep.Exchange, reads uint64) *problem {
	clear(w.attrs)
	if p := s.body(w, x, reads); p != nil {
		return p
	}
	for set := reads &^ s.view.Level; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		a := &s.view.Attributes[i]
		var raw string
		var found bool
		var err error
		switch a.Source.Kind {
		case authz.SourceBody:
			continue
		case authz.SourceHour:
			put(w, i, value{k: long, n: int64(x.Now.UTC().Hour())}, "")
			continue
		case authz.SourcePeer:
			addr := x.Flow.Src.Unmap().WithZone("")
			if !addr.IsValid() {
				return missing(a)
			}
			put(w, i, value{k: ip, n: int64(addr.BitLen())}, addr.AsSlice())
			continue
		case authz.SourceMethod:
			raw, found = x.Request.Method, true
		case authz.SourceRoute:
			raw, found = x.Param(a.Source.Arg)
		case authz.SourceQuery:
			raw, found, err = query(x.Request.URL.RawQuery, a.Source.Arg)
		case authz.SourceHeader:
			list := x.Request.Header[a.Source.Arg]
			if found = len(list) > 0; found {
				raw = list[0]
			}
			if len(list) > 1 {
				err = errTwice
			}
		default:
			err = errors.New("its source is unknown")
		}
		if err != nil {
			return malformed(a, err)
		}
		if p := store(w, i, a, raw, found); p != nil {
			return p
		}
	}
	return nil
}

// store reads attribute i from text and puts it.
func store[T string | []byte](w *workspace, i int, a *authz.Attribute, raw T, found bool) *problem {
	switch {
	case !found && !a.Optional:
		return missing(a)
	case !found:
		put(w, i, value{}, "")
	case a.Type == authz.TypeString:
		put(w, i, value{k: text}, raw)
	default:
		v, err := parse(a.Type, []byte(raw))
		if err != nil {
			return malformed(a, err)
		}
		put(w, i, v, v.s)
	}
	return nil
}

// put stores attribute i, whose bytes are s, and appends it to the key, where no
// two different values look alike: kind, number, length and bytes.
func put[T string | []byte](w *workspace, i int, v value, s T) {
	w.key = append(w.key, byte(v.k))
	w.key = binary.LittleEndian.AppendUint64(w.key, uint64(v.n))
	w.key = binary.LittleEndian.AppendUint32(w.key, uint32(len(s)))
	at := len(w.key)
	w.key = append(w.key, s...)
	v.s = w.key[at:]
	w.attrs[i] = v
}

// query finds a parameter in a raw query. Pairs that other parsers might read
// otherwise are errors, whatever their name.
func query(raw, name string) (val string, found bool, err error) {
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		if strings.Contains(pair, ";") {
			return "", false, errors.New("the query holds a \";\"")
		}
		k, v, _ := strings.Cut(pair, "=")
		if k, err = url.QueryUnescape(k); err != nil {
			return "", false, errors.New("the query is not well formed")
		}
		if k != name {
			continue
		}
		if found {
			return "", false, errTwice
		}
		if val, err = url.QueryUnescape(v); err != nil {
			return "", false, errors.New("the query is not well formed")
		}
		found = true
	}
	return val, found, nil
}

// body fills the attributes that come from a JSON body.
func (s *state) body(w *workspace, x *pep.Exchange, reads uint64) *problem {
	reads &= s.bodies
	if reads == 0 {
		return nil
	}
	w.want = w.want[:0]
	for set := reads; set != 0; set &= set - 1 {
		w.want = append(w.want, s.pointers[bits.TrailingZeros64(set)])
	}
	w.found = append(w.found[:0], make([]strictjson.Value, len(w.want))...)
	first := &s.view.Attributes[bits.TrailingZeros64(reads)]
	doc, err := x.Body()
	if err != nil {
		return malformed(first, err)
	}
	if len(doc) > 0 {
		if err := isJSON(x); err != nil {
			return malformed(first, err)
		}
		if err := strictjson.Find(doc, w.want, w.found); err != nil {
			return malformed(first, err)
		}
	}
	for n, set := 0, reads; set != 0; n, set = n+1, set&(set-1) {
		i := bits.TrailingZeros64(set)
		a, v := &s.view.Attributes[i], w.found[n]
		if err := fits(a.Type, v.Kind); err != nil {
			return malformed(a, err)
		}
		if a.Type == authz.TypeDecimal && v.Kind == strictjson.Number && !bytes.ContainsAny(v.Text, ".eE") {
			v.Text = append(v.Text[:len(v.Text):len(v.Text)], ".0"...) // JSON writers leave it out
		}
		if p := store(w, i, a, v.Text, v.Kind != strictjson.Missing); p != nil {
			return p
		}
	}
	return nil
}

// isJSON refuses a body that an application could read as something else.
func isJSON(x *pep.Exchange) error {
	h := x.Request.Header
	types := h["Content-Type"]
	if len(types) != 1 || len(h["Content-Encoding"]) != 0 {
		return errors.New("the body must be application/json, without a content encoding")
	}
	t, params, err := mime.ParseMediaType(types[0])
	charset, given := params["charset"]
	if err != nil || t != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return errors.New("the body must be application/json in UTF-8")
	}
	return nil
}
