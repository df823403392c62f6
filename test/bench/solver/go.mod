module lorica.dev/lorica/test/bench/solver

go 1.26.3

require (
	github.com/crillab/gophersat v1.4.0
	lorica.dev/lorica v0.0.0
)

require (
	github.com/cedar-policy/cedar-go v1.9.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260820222146-c27c302e5fc3 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/exp v0.0.0-20250711185948-6ae5c78190dc // indirect
)

replace lorica.dev/lorica => ../../..
