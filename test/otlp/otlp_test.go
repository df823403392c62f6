// Package otlp_test holds the encoder of pep/audit/otlp to the project's own package for
// OTLP, which images do without: what a sink sends is decoded by it, says what was recorded,
// and is encoded by it to the same bytes.
package otlp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	logs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	v1 "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep/audit/otlp"
	"lorica.dev/lorica/pep/delivery/collectortest"
)

// sent returns the bodies of the requests in which a sink sends records.
func sent(t *testing.T, list []audit.Record, answer *logs.ExportLogsServiceResponse) (bodies [][]byte, lost uint64) {
	t.Helper()
	place := collectortest.Listen(t, false)
	got := make(chan []byte, 1000)
	go func() {
		for {
			c, err := place.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					b, err := io.ReadAll(r.Body)
					if err != nil {
						return
					}
					got <- b
					out, err := proto.Marshal(answer)
					if err != nil {
						t.Error(err)
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n%s", len(out), out)
				}
			}()
		}
	}()
	m := otlp.New(collectortest.Dial)
	st, err := m.Prepare(place.Input(place.Collector(func(c *audit.Collector) { c.Path = "/v1/logs" })))
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	for _, r := range list {
		if err := st.Keep(r, true); err != nil {
			t.Fatal(err)
		}
	}
	m.Start(&collectortest.Log{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	close(got)
	for b := range got {
		bodies = append(bodies, b)
	}
	return bodies, m.Report().Lost
}

// decoded returns the records of a request, which has one resource and one scope.
func decoded(t *testing.T, body []byte) []*v1.LogRecord {
	t.Helper()
	var m logs.ExportLogsServiceRequest
	if err := (proto.UnmarshalOptions{}).Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if n := len(m.ProtoReflect().GetUnknown()); n > 0 {
		t.Errorf("%d bytes of fields that are unknown", n)
	}
	again, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, body) {
		t.Errorf("encoded by the reference it is\n%x, not\n%x", again, body)
	}
	if len(m.ResourceLogs) != 1 || len(m.ResourceLogs[0].ScopeLogs) != 1 || m.ResourceLogs[0].ScopeLogs[0].Scope.Name != "lorica.dev/lorica" {
		t.Fatalf("%v", &m)
	}
	resource := attributes(m.ResourceLogs[0].Resource.Attributes)
	if resource["service.name"] != "shop" || resource["service.namespace"] != "acme" || len(resource["service.instance.id"].(string)) != 32 {
		t.Errorf("%v", resource)
	}
	return m.ResourceLogs[0].ScopeLogs[0].LogRecords
}

func attributes(list []*common.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range list {
		if _, twice := m[kv.Key]; twice {
			m[kv.Key] = "twice"
			continue
		}
		m[kv.Key] = value(kv.Value)
	}
	return m
}

func value(v *common.AnyValue) any {
	switch v := v.Value.(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_ArrayValue:
		list := []any{}
		for _, x := range v.ArrayValue.Values {
			list = append(list, value(x))
		}
		return fmt.Sprint(list)
	}
	return nil
}

func TestARecordAsTheReferenceReadsIt(t *testing.T) {
	r := collectortest.Record("0123")
	bodies, _ := sent(t, []audit.Record{r}, &logs.ExportLogsServiceResponse{})
	list := decoded(t, bodies[0])
	if len(bodies) != 1 || len(list) != 1 {
		t.Fatalf("%d requests, %d records", len(bodies), len(list))
	}
	x := list[0]
	if x.TimeUnixNano != uint64(r.Time) || x.ObservedTimeUnixNano != uint64(r.Time) || x.SeverityNumber != v1.SeverityNumber_SEVERITY_NUMBER_WARN || x.SeverityText != "WARN" || x.EventName != "lorica.decision" {
		t.Errorf("%v", x)
	}
	got := attributes(x.Attributes)
	for key, want := range map[string]any{
		"seq": int64(1), "id": "0123", "decision": "Deny", "stage": "authz", "rule": `a "rule" \ ]`, "line": "policy.yaml:41", "reason": `forbidden\nby \x1b[31m\u202etext\xff`,
		"status": int64(403), "principal": "ada", "source": "10.0.0.1", "protocol": "TCP", "port": int64(8443), "method": "GET", "route": "list", "path": "/accounts/\u00e9",
		"level": "normal", "revision": int64(7), "group": "[staff tellers]", "fact": `[amount=5"00] tags=["a]`, "absent": "[note]", "partial": "[attribute.tags attribute.bad path]",
		"dryRun.decision": "Allow", "dryRun.stage": "authz", "dryRun.rule": "tried", "dryRun.line": "policy.yaml:7", "dryRun.reason": "none",
	} {
		if got["lorica."+key] != want {
			t.Errorf("lorica.%s is %#v, want %#v", key, got["lorica."+key], want)
		}
	}
	if len(got) != 27 { // and the program
		t.Errorf("%d attributes: %v", len(got), got)
	}
}

// Whatever records hold, in batches of any size.
func TestRandomRecords(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		b := make([]byte, dice.IntN(40)*dice.IntN(40))
		for i := range b {
			b[i] = byte(dice.Uint32())
		}
		return string(b)
	}
	var list []audit.Record
	for range 300 {
		r := audit.Record{Time: dice.Int64(), ID: text(), Verdict: abi.Verdict(dice.IntN(2)), Stage: text(), Rule: abi.Rule{ID: text(), Line: text()}, Reason: text(), Status: uint16(dice.Uint32()),
			Principal: text(), Source: text(), Protocol: uint8(dice.Uint32()), Port: uint16(dice.Uint32()), Method: text(), Route: text(), Path: text(), Level: text(), Revision: dice.Uint64()}
		for range dice.IntN(4) {
			r.Groups = append(r.Groups, text())
			r.Facts = append(r.Facts, audit.Fact{Name: text(), Value: text()})
		}
		list = append(list, r)
	}
	bodies, _ := sent(t, list, &logs.ExportLogsServiceResponse{})
	n := 0
	for _, b := range bodies {
		for _, x := range decoded(t, b) {
			n++
			if got := attributes(x.Attributes)["lorica.seq"]; got != int64(n) {
				t.Errorf("record %d has the number %v", n, got)
			}
		}
	}
	if n != len(list) || len(bodies) < 5 {
		t.Errorf("%d records of %d, in %d requests", n, len(list), len(bodies))
	}
}

// What the collector refuses in part is lost.
func TestAPartialSuccess(t *testing.T) {
	_, lost := sent(t, []audit.Record{collectortest.Record("a"), collectortest.Record("b")},
		&logs.ExportLogsServiceResponse{PartialSuccess: &logs.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "one is too old"}})
	if lost != 1 {
		t.Errorf("%d are lost", lost)
	}
}
