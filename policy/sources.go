package policy

import (
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
)

// A sourceForm is a way to write where a value comes from. Those that end in a
// point or a colon take an argument.
type sourceForm struct {
	prefix string
	kind   authz.SourceKind
	types  []authz.Type
}

func sourceForms() []sourceForm {
	text := []authz.Type{authz.TypeString, authz.TypeLong, authz.TypeBool, authz.TypeDecimal, authz.TypeDatetime, authz.TypeDuration}
	return []sourceForm{
		{"level", authz.SourceLevel, []authz.Type{authz.TypeString}},
		{"clock.hour", authz.SourceHour, []authz.Type{authz.TypeLong}},
		{"clock.minute", authz.SourceMinute, []authz.Type{authz.TypeLong}},
		{"clock.weekday", authz.SourceWeekday, []authz.Type{authz.TypeLong}},
		{"peer.address", authz.SourcePeer, []authz.Type{authz.TypeIP}},
		{"request.method", authz.SourceMethod, []authz.Type{authz.TypeString}},
		{"route.", authz.SourceRoute, []authz.Type{authz.TypeString, authz.TypeLong}},
		{"query.", authz.SourceQuery, text},
		{"header.", authz.SourceHeader, text},
		{"body.json:", authz.SourceBody, append([]authz.Type{authz.TypeIP}, text...)},
		{"jwt.", authz.SourceClaim, text},
		{"jwt:", authz.SourceClaim, text},
		{"tls.spiffe", authz.SourceSPIFFE, []authz.Type{authz.TypeString}},
		{"tls.dns", authz.SourceDNS, []authz.Type{authz.TypeString}},
		{"tls.subject", authz.SourceSubject, []authz.Type{authz.TypeString}},
		{"basic.groups", authz.SourceGroups, nil},
	}
}

// laterSources are of modules that do not exist yet.
var laterSources = []string{"tls.", "clock.", "peer.", "workload.", "spiffe."}

// parseSource reads a source as written. The texts are empty where it is good.
func parseSource(s string) (src authz.Source, types []authz.Type, fix, wrong string) {
	var known []string
	for _, f := range sourceForms() {
		known = append(known, f.prefix)
		takes := strings.HasSuffix(f.prefix, ".") || strings.HasSuffix(f.prefix, ":")
		arg, ok := strings.CutPrefix(s, f.prefix)
		if !ok || !takes && arg != "" {
			continue
		}
		src = authz.Source{Kind: f.kind, Arg: arg}
		if f.kind == authz.SourceClaim {
			if fix, wrong = checkClaim(&src, f.prefix == "jwt."); src.Kind == authz.SourceClaimHas {
				return src, []authz.Type{authz.TypeBool}, fix, wrong
			}
			return src, f.types, fix, wrong
		}
		fix, wrong = checkArgument(&src)
		return src, f.types, fix, wrong
	}
	for _, l := range laterSources {
		if strings.HasPrefix(s, l) {
			kin := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !strings.HasPrefix(k, l) })
			if len(kin) == 0 {
				kin = known
			}
			return src, nil, didYouMean(s, kin), fmt.Sprintf("the source %q is not supported yet", clip(s))
		}
	}
	return src, nil, didYouMean(s, known), fmt.Sprintf("the source %q is unknown", clip(s))
}

func checkArgument(src *authz.Source) (fix, wrong string) {
	arg := src.Arg
	switch src.Kind {
	case authz.SourceRoute:
		if !paramForm.MatchString("{" + arg + "}") {
			return "write route.NAME for a parameter {NAME} of the routes", fmt.Sprintf("%q is not the name of a path parameter", clip(arg))
		}
	case authz.SourceQuery:
		if arg == "" || len(arg) > 128 || !printable(arg) {
			return "write query.NAME", fmt.Sprintf("%q is not the name of a query parameter", clip(arg))
		}
	case authz.SourceHeader:
		return checkHeader(src)
	case authz.SourceBody:
		if !isPointer(arg) {
			return `write a JSON pointer such as "body.json:/amount"`, fmt.Sprintf("%q is not a JSON pointer", clip(arg))
		}
	}
	return "", ""
}

// isPointer reports whether s is "" or /token/token, with ~ only in ~0 and ~1
// (RFC 6901).
func isPointer(s string) bool {
	_, err := strictjson.ParsePointer(s)
	return err == nil && len(s) <= 256 && printable(s)
}

var (
	claimForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	hasForm   = regexp.MustCompile(`^"([^"\\]{1,256})"$`)
)

// checkClaim reads what follows jwt. (the name of a claim) or jwt: (a pointer),
// either with has "TEXT" behind it, and makes a pointer of it.
func checkClaim(src *authz.Source, named bool) (fix, wrong string) {
	claim, text, has := strings.Cut(src.Arg, " has ")
	const example = `write 'jwt.amr has "mfa"', in single quotes for YAML`
	switch {
	case named && strings.ContainsAny(claim, " \t"):
		return example, fmt.Sprintf("%q is neither a claim nor a question about one", clip(src.Arg))
	case named && !claimForm.MatchString(claim):
		fix = `write jwt.NAME, or a pointer: "jwt:/realm_access/level"`
		if p := "/" + strings.ReplaceAll(claim, ".", "/"); strings.Contains(claim, ".") && isPointer(p) {
			fix = fmt.Sprintf("write %q for a member of a member", "jwt:"+p)
		}
		return fix, fmt.Sprintf("%q is not the name of a claim", clip(claim))
	case named:
		claim = "/" + claim
	case claim == "" || !isPointer(claim):
		return `write a JSON pointer such as "jwt:/realm_access/level"`, fmt.Sprintf("%q is not a JSON pointer into the claims", clip(claim))
	}
	*src = authz.Source{Kind: authz.SourceClaim, Arg: claim}
	if has {
		m := hasForm.FindStringSubmatch(text)
		if m == nil || !printable(text) {
			return example, fmt.Sprintf("%s is not text in double quotes", clip(text))
		}
		src.Kind, src.Has = authz.SourceClaimHas, m[1]
	}
	return "", ""
}

// strippedHeaders never reach the modules that decide: net/http consumes them,
// or they carry credentials.
var strippedHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer", "Upgrade", "Te", "Keep-Alive", "Expect"}

func checkHeader(src *authz.Source) (fix, wrong string) {
	arg := src.Arg
	if arg == "" || len(arg) > 128 || strings.ContainsFunc(arg, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}) {
		return "write header.NAME", fmt.Sprintf("%q is not the name of a header", clip(arg))
	}
	src.Arg = textproto.CanonicalMIMEHeaderKey(arg)
	if slices.Contains(strippedHeaders, src.Arg) || strings.HasPrefix(src.Arg, "Lorica-") {
		return "name a header of the application", fmt.Sprintf("header %s cannot be a source: it carries credentials, or belongs to the connection or to Lorica", src.Arg)
	}
	return "", ""
}
