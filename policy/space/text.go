package space

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// PacketText is a packet in the words of `lorica why --packet`.
func PacketText(k api.Packet) string {
	s := strings.ToLower(k.Protocol) + " " + k.From.String()
	if k.Protocol == api.ICMP {
		return s
	}
	return fmt.Sprintf("%s -> :%d", s, k.Port)
}

// CallText is a call in words; the level is left out where it is the initial one of p.
func CallText(p *api.SecurityPolicy, c policy.Call) string {
	s := c.Route + " as " + c.Principal
	if len(c.Groups) > 0 {
		s += " in " + strings.Join(c.Groups, ", ")
	}
	for i, name := range slices.Sorted(maps.Keys(c.Context)) {
		sep := ", "
		if i == 0 {
			sep = " with "
		}
		s += fmt.Sprintf("%s%s %s", sep, name, valueText(c.Context[name]))
	}
	if c.Level != "" && c.Level != p.Levels.Initial {
		s += " at level " + c.Level
	}
	return s
}

func valueText(v types.Value) string {
	if s, ok := v.(types.String); ok {
		return fmt.Sprintf("%q", string(s))
	}
	return v.String()
}
