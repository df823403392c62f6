package kernel

// Errors of system calls: Linux, include/uapi/asm-generic/errno-base.h, errno.h.
const (
	ePERM     = 1
	eNOENT    = 2
	eBADF     = 9
	eAGAIN    = 11
	eNOMEM    = 12
	eFAULT    = 14
	eBUSY     = 16
	eEXIST    = 17
	eNODEV    = 19
	eINVAL    = 22
	eMFILE    = 24
	eNOSYS    = 38
	eTIMEDOUT = 110
)

// fail is what a call that failed with e returns.
//
//go:nosplit
func fail(e uint64) uint64 { return -e }
