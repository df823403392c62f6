package policy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi/authz"
)

// FormatValue writes the value of an attribute as ParseValue reads it.
func FormatValue(a authz.Attribute, v cedar.Value) (string, error) {
	if !a.Set {
		return fmt.Sprint(v), nil
	}
	set, ok := v.(cedar.Set)
	if !ok {
		return "", fmt.Errorf("%v is not a set", v)
	}
	list := make([]any, 0, set.Len())
	for e := range set.All() {
		if a.Type == authz.TypeLong || a.Type == authz.TypeBool {
			list = append(list, json.RawMessage(fmt.Sprint(e)))
		} else {
			list = append(list, fmt.Sprint(e))
		}
	}
	slices.SortFunc(list, func(x, y any) int { return slices.Compare([]byte(fmt.Sprint(x)), []byte(fmt.Sprint(y))) })
	b, err := json.Marshal(list)
	return string(b), err
}
