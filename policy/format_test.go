package policy_test

import (
	"testing"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

func TestValuesAreWrittenAsTheyAreRead(t *testing.T) {
	for _, x := range []struct {
		a    authz.Attribute
		text string
	}{
		{authz.Attribute{Type: authz.TypeString}, `a "b" \c`},
		{authz.Attribute{Type: authz.TypeLong}, "-7"},
		{authz.Attribute{Type: authz.TypeBool}, "true"},
		{authz.Attribute{Type: authz.TypeIP}, "10.0.0.0/8"},
		{authz.Attribute{Type: authz.TypeDecimal}, "1.5"},
		{authz.Attribute{Type: authz.TypeDatetime}, "2026-01-02T03:04:05.000Z"},
		{authz.Attribute{Type: authz.TypeDuration}, "1h30m"},
		{authz.Attribute{Type: authz.TypeString, Set: true}, `["a","b\"c"]`},
		{authz.Attribute{Type: authz.TypeLong, Set: true}, `[1,2]`},
		{authz.Attribute{Type: authz.TypeDecimal, Set: true}, `["1.0","2.5"]`},
	} {
		v, err := policy.ParseValue(x.a, x.text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := policy.FormatValue(x.a, v); err != nil || got != x.text {
			t.Errorf("%s is written %s (%v)", x.text, got, err)
		}
	}
	if s, err := policy.FormatValue(authz.Attribute{Type: authz.TypeLong, Set: true}, cedar.Long(1)); err == nil {
		t.Errorf("a number as a set is written %s", s)
	}
}
