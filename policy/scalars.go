package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

func parseLong(s string) (cedar.Value, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return nil, fmt.Errorf("%q is not a whole number", clip(s))
	}
	return cedar.Long(n), nil
}

func parseIP(s string) (cedar.Value, error) {
	v, err := types.ParseIPAddr(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IP address", clip(s))
	}
	return v, nil
}

// parseDecimal reads Cedar's decimal in the one spelling that images take.
func parseDecimal(s string) (cedar.Value, error) {
	v, err := types.ParseDecimal(s)
	digits := strings.TrimPrefix(s, "-")
	if err == nil && (digits[0] == '+' || digits[0] == '0' && digits[1] != '.') {
		err = errors.New("a plus or a leading zero")
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a decimal number with one to four places", clip(s))
	}
	return v, nil
}
