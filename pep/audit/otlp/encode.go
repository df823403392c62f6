package otlp

import (
	"encoding/binary"
	"errors"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep/delivery"
)

// Numbers of fields in opentelemetry-proto 1.x: collector/logs/v1, logs/v1, resource/v1 and
// common/v1. The encoding of protobuf is that of proto3 with nothing left out that is set.
const (
	requestResourceLogs = 1 // ExportLogsServiceRequest

	resourceLogsResource  = 1 // ResourceLogs
	resourceLogsScopeLogs = 2

	resourceAttributes = 1 // Resource

	scopeLogsScope   = 1 // ScopeLogs
	scopeLogsRecords = 2

	scopeName = 1 // InstrumentationScope

	recordTime         = 1 // LogRecord
	recordSeverity     = 2
	recordSeverityText = 3
	recordBody         = 5
	recordAttributes   = 6
	recordObserved     = 11
	recordEvent        = 12

	pairKey   = 1 // KeyValue
	pairValue = 2

	valueText  = 1 // AnyValue
	valueInt   = 3
	valueArray = 5

	arrayValues = 1 // ArrayValue

	responsePartial = 1 // ExportLogsServiceResponse
	partialRejected = 1 // ExportLogsPartialSuccess
)

// Severities (SeverityNumber).
const (
	severityInfo = 9
	severityWarn = 13
)

const eventName = "lorica.decision"

// Wire types.
const (
	wireVarint = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

func appendTag(b []byte, field, wire int) []byte {
	return binary.AppendUvarint(b, uint64(field)<<3|uint64(wire))
}

func appendVarint(b []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(appendTag(b, field, wireVarint), v)
}

func appendFixed64(b []byte, field int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendTag(b, field, wireFixed8), v)
}

func appendString(b []byte, field int, s string) []byte {
	b = binary.AppendUvarint(appendTag(b, field, wireBytes), uint64(len(s)))
	return append(b, s...)
}

// appendMessage appends what inner writes as a message of its own.
func appendMessage(b []byte, field int, inner func([]byte) []byte) []byte {
	m := inner(nil)
	b = binary.AppendUvarint(appendTag(b, field, wireBytes), uint64(len(m)))
	return append(b, m...)
}

func appendText(b []byte, field int, key, value string) []byte {
	return appendMessage(b, field, func(b []byte) []byte {
		b = appendString(b, pairKey, key)
		return appendMessage(b, pairValue, func(b []byte) []byte { return appendString(b, valueText, value) })
	})
}

func appendNumber(b []byte, field int, key string, value uint64) []byte {
	return appendMessage(b, field, func(b []byte) []byte {
		b = appendString(b, pairKey, key)
		return appendMessage(b, pairValue, func(b []byte) []byte { return appendVarint(b, valueInt, value) })
	})
}

// appendRequest appends a batch as ExportLogsServiceRequest.
func appendRequest(b []byte, batch []*delivery.Entry, to *delivery.Target, lost uint64) []byte {
	return appendMessage(b, requestResourceLogs, func(b []byte) []byte {
		b = appendMessage(b, resourceLogsResource, func(b []byte) []byte {
			b = appendText(b, resourceAttributes, "service.namespace", to.Tenant)
			b = appendText(b, resourceAttributes, "service.name", to.Workload)
			return appendText(b, resourceAttributes, "service.instance.id", to.Life)
		})
		return appendMessage(b, resourceLogsScopeLogs, func(b []byte) []byte {
			b = appendMessage(b, scopeLogsScope, func(b []byte) []byte { return appendString(b, scopeName, "lorica.dev/lorica") })
			for _, e := range batch {
				b = appendMessage(b, scopeLogsRecords, func(b []byte) []byte { return appendRecord(b, e, lost) })
			}
			return b
		})
	})
}

// appendRecord appends a LogRecord.
func appendRecord(b []byte, e *delivery.Entry, lost uint64) []byte {
	at := uint64(max(e.Record.Time, 0))
	severity, text := uint64(severityWarn), "WARN"
	if e.Record.Verdict == abi.Allow {
		severity, text = severityInfo, "INFO"
	}
	b = appendFixed64(b, recordTime, at)
	b = appendVarint(b, recordSeverity, severity)
	b = appendString(b, recordSeverityText, text)
	b = appendMessage(b, recordBody, func(b []byte) []byte { return appendString(b, valueText, delivery.Sentence(&e.Record)) })
	b = appendAttributes(b, delivery.Fields(e, lost))
	b = appendFixed64(b, recordObserved, at)
	return appendString(b, recordEvent, eventName)
}

// appendAttributes appends fields. A key may be there once only: what comes several times
// is a list under one.
func appendAttributes(b []byte, fields []delivery.Field) []byte {
	for i := range fields {
		f := &fields[i]
		switch key := "lorica." + f.Name; {
		case delivery.Several(f.Name):
			if slices.ContainsFunc(fields[:i], func(o delivery.Field) bool { return o.Name == f.Name }) {
				continue
			}
			b = appendMessage(b, recordAttributes, func(b []byte) []byte {
				b = appendString(b, pairKey, key)
				return appendMessage(b, pairValue, func(b []byte) []byte { return appendTexts(b, fields[i:], f.Name) })
			})
		case f.Is == delivery.Numeric:
			b = appendNumber(b, recordAttributes, key, f.Number)
		default:
			b = appendText(b, recordAttributes, key, f.Text)
		}
	}
	return b
}

// appendTexts appends the texts of one name as an array.
func appendTexts(b []byte, fields []delivery.Field, name string) []byte {
	return appendMessage(b, valueArray, func(b []byte) []byte {
		for i := range fields {
			if fields[i].Name == name {
				b = appendMessage(b, arrayValues, func(b []byte) []byte { return appendString(b, valueText, fields[i].Text) })
			}
		}
		return b
	})
}

var errResponse = errors.New("not a response of OTLP in protobuf")

// readResponse returns how many records the collector has refused, of a response whose
// other fields do not matter.
func readResponse(b []byte) (rejected uint64, err error) {
	err = each(b, func(field, wire int, _ uint64, data []byte) error {
		if field != responsePartial || wire != wireBytes {
			return nil
		}
		return each(data, func(field, wire int, v uint64, _ []byte) error {
			if field == partialRejected && wire == wireVarint {
				if rejected = v; int64(v) < 0 {
					rejected = 0
				}
			}
			return nil
		})
	})
	return rejected, err
}

// each calls f for every field of a message.
func each(b []byte, f func(field, wire int, v uint64, data []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return errResponse
		}
		b = b[n:]
		var v uint64
		var data []byte
		wire := int(tag & 7)
		switch wire {
		case wireVarint:
			if v, n = binary.Uvarint(b); n <= 0 {
				return errResponse
			}
			b = b[n:]
		case wireFixed8, wireFixed4:
			size := 8
			if wire == wireFixed4 {
				size = 4
			}
			if len(b) < size {
				return errResponse
			}
			b = b[size:]
		case wireBytes:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errResponse
			}
			data, b = b[n:n+int(size)], b[n+int(size):]
		default:
			return errResponse
		}
		if err := f(int(tag>>3), wire, v, data); err != nil {
			return err
		}
	}
	return nil
}
