module lorica.dev/lorica/test/otlp

go 1.26.3

require (
	go.opentelemetry.io/proto/slim/otlp v1.11.1
	google.golang.org/protobuf v1.36.12
	lorica.dev/lorica v0.0.0
)

replace lorica.dev/lorica => ../..
