package debian

import "strings"

// irregular are the architectures whose names do not say their ABI, C library, system and
// processor as the others do (dpkg has them in its tupletable).
var irregular = map[string]string{
	"armel": "eabi-gnu-linux-arm", "armhf": "eabihf-gnu-linux-arm", "arm64ilp32": "ilp32-gnu-linux-arm64",
	"mipsn32": "abin32-gnu-linux-mips64", "mipsn32el": "abin32-gnu-linux-mips64el",
	"mipsn32r6": "abin32-gnu-linux-mips64r6", "mipsn32r6el": "abin32-gnu-linux-mips64r6el",
	"mips64": "abi64-gnu-linux-mips64", "mips64el": "abi64-gnu-linux-mips64el",
	"mips64r6": "abi64-gnu-linux-mips64r6", "mips64r6el": "abi64-gnu-linux-mips64r6el",
	"powerpcspe": "spe-gnu-linux-powerpc", "x32": "x32-gnu-linux-amd64",
	"uclibc-linux-armel": "eabi-uclibc-linux-arm", "uclinux-armel": "eabi-uclibc-uclinux-arm",
	"musl-linux-armhf": "eabihf-musl-linux-arm", "kfreebsd-armhf": "eabihf-gnu-kfreebsd-arm",
}

// systems are the C library and the system that an architecture's name means by what
// stands before its processor.
var systems = map[string]string{
	"": "gnu-linux", "uclibc-linux": "uclibc-linux", "musl-linux": "musl-linux",
	"kfreebsd": "gnu-kfreebsd", "knetbsd": "gnu-knetbsd", "kopensolaris": "gnu-kopensolaris", "hurd": "gnu-hurd",
	"dragonflybsd": "bsd-dragonflybsd", "freebsd": "bsd-freebsd", "openbsd": "bsd-openbsd", "netbsd": "bsd-netbsd", "darwin": "bsd-darwin",
	"aix": "sysv-aix", "solaris": "sysv-solaris", "uclinux": "uclibc-uclinux", "mint": "tos-mint",
}

// tuple returns the ABI, the C library, the system and the processor of an architecture,
// or nil where it is none, as all is none.
func tuple(arch string) []string {
	if arch == "all" {
		return nil
	}
	name, ok := irregular[arch]
	if !ok {
		system, cpu := "", arch
		if at := strings.LastIndexByte(arch, '-'); at >= 0 {
			system, cpu = arch[:at], arch[at+1:]
		}
		if system, ok = systems[system]; !ok {
			return nil
		}
		name = "base-" + system + "-" + cpu
	}
	return strings.Split(name, "-")
}

// means reports whether a word of a list of architectures means one: its name, or a
// wildcard, such as any, linux-any, any-amd64 or musl-any-any.
func means(word, arch string) bool {
	if word == arch || word == "any" {
		return true
	}
	parts, is := strings.Split(word, "-"), tuple(arch)
	if !strings.Contains("-"+word+"-", "-any-") || len(parts) > len(is) {
		return false
	}
	is = is[len(is)-len(parts):]
	for i, p := range parts {
		if p != "any" && p != is[i] {
			return false
		}
	}
	return true
}
