package tender

import (
	"encoding/json"
	"reflect"
	"testing"

	"lorica.dev/lorica/abi/audit"
)

func TestFactsInASpool(t *testing.T) {
	tn := &tender{cfg: Config{Instance: "i"}}
	for _, c := range []struct {
		r    audit.Record
		want string
	}{
		{audit.Record{}, `{}`},
		{audit.Record{Protocol: 6, Port: 443, Groups: []string{"staff"}, Facts: []audit.Fact{{Name: "amount", Value: "500"}, {Name: "note", State: audit.FactAbsent}, {Name: "empty"}}},
			`{"protocol":"TCP","port":443,"groups":["staff"],"facts":{"amount":"500","empty":"","note":null}}`},
		{audit.Record{Protocol: 58, Partial: audit.PartialPrincipal | audit.PartialAttributes, Facts: []audit.Fact{{Name: "a", Value: "[redacted]", State: audit.FactHidden},
			{Name: "b", Value: "x...", State: audit.FactCut}, {Name: "c", State: audit.FactUnread}, {Name: "d", Value: "\x1b\n"}, {Name: "e", Value: "é"}}},
			`{"protocol":"ICMP","facts":{"a":"[redacted]","b":"x...","d":"\\x1b\\n","e":"é"},"partial":["principal","attributes","attribute.a","attribute.b","attribute.c","attribute.d"]}`},
		{audit.Record{Protocol: 132, Groups: []string{"\u202e"}, Path: "\xff"}, `{"protocol":"132","path":"\\xff","groups":["\\u202e"],"partial":["path","groups"]}`},
	} {
		line, err := tn.decision(&c.r, 1)
		if err != nil {
			t.Fatal(err)
		}
		var got, want map[string]any
		if json.Unmarshal(line, &got) != nil || json.Unmarshal([]byte(c.want), &want) != nil {
			t.Fatalf("%s", line)
		}
		for k := range got {
			switch k {
			case "protocol", "port", "path", "groups", "facts", "partial":
			default:
				delete(got, k)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}
