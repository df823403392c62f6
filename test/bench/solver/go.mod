module lorica.dev/lorica/test/bench/solver

go 1.26.3

require (
	github.com/crillab/gophersat v1.4.0
	lorica.dev/lorica v0.0.0
)

replace lorica.dev/lorica => ../../..
