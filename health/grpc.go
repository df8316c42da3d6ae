package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// grpcProber asks for the standard health service of gRPC (grpc.health.v1.Health/Check). One unary call is one
// HTTP/2 POST, which net/http can do: the gRPC library would add a third to the size of the program for it.
type grpcProber struct {
	client  *http.Client
	target  string // as given
	url     string
	request []byte
}

// maxGRPCAnswer bounds the answer, in bytes; a health answer has seven.
const maxGRPCAnswer = 4 << 10

// grpcUnavailable is the code for a server that cannot be reached or does not speak gRPC.
const grpcUnavailable = 14

// grpcCodes are the names of the status codes of gRPC, by number.
var grpcCodes = [...]string{"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"}

// grpcServing are the names of the serving states, by number.
var grpcServing = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

func newGRPCProber(s Spec) *grpcProber {
	host, service, _ := strings.Cut(s.GRPC, "/")
	scheme := "http://"
	if s.GRPCUseTLS {
		scheme = "https://"
	}
	var message []byte
	if service != "" { // HealthCheckRequest{string service = 1}
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	request := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) // not compressed, length
	return &grpcProber{
		client: &http.Client{
			Transport:     s.Host.requests(s, true),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		target: s.GRPC, url: scheme + host + "/grpc.health.v1.Health/Check", request: append(request, message...),
	}
}

func (p *grpcProber) probe(ctx context.Context) (Status, string) {
	serving, code, err := p.call(ctx)
	switch {
	case err != nil:
		return Critical, fmt.Sprintf("rpc error: code = %s desc = %v", grpcName(grpcCodes[:], code), err)
	case serving != 1:
		return Critical, fmt.Sprintf("gRPC %s serving status: %s", p.target, grpcName(grpcServing[:], serving))
	}
	return Passing, fmt.Sprintf("gRPC check %s: success", p.target)
}

// call gives the serving state, or an error with its gRPC code.
func (p *grpcProber) call(ctx context.Context) (serving, code uint64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.request))
	if err != nil {
		return 0, grpcUnavailable, errors.New("malformed address, expected host:port or host:port/service")
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {UserAgent}}
	res, err := p.client.Do(req)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err // without the URL, which the address alone did not have
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return 0, 4, err
		}
		return 0, grpcUnavailable, err
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "application/grpc") {
		return 0, grpcUnavailable, fmt.Errorf("not a gRPC server: status %s, content type %.64q", res.Status, kind)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxGRPCAnswer))
	if err != nil {
		return 0, grpcUnavailable, err
	}
	status := res.Trailer
	if status.Get("Grpc-Status") == "" { // an answer without a message has its status among the headers
		status = res.Header
	}
	if code, err = strconv.ParseUint(status.Get("Grpc-Status"), 10, 32); err != nil {
		return 0, 2, errors.New("the answer has no gRPC status")
	}
	if code != 0 {
		text, uerr := url.PathUnescape(status.Get("Grpc-Message"))
		if uerr != nil {
			text = status.Get("Grpc-Message")
		}
		return 0, code, fmt.Errorf("%.512s", text)
	}
	serving, err = servingOf(body)
	return serving, 13, err
}

// servingOf reads HealthCheckResponse{enum status = 1} out of its frame.
func servingOf(frame []byte) (uint64, error) {
	bad := errors.New("malformed health answer")
	if len(frame) < 5 || frame[0] != 0 || binary.BigEndian.Uint32(frame[1:]) != uint32(len(frame)-5) {
		return 0, bad
	}
	var serving uint64
	for m := frame[5:]; len(m) > 0; {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return 0, bad
		}
		m = m[n:]
		if n = protowire.ConsumeFieldValue(num, typ, m); n < 0 {
			return 0, bad
		}
		if num == 1 && typ == protowire.VarintType {
			serving, _ = protowire.ConsumeVarint(m)
		}
		m = m[n:]
	}
	return serving, nil
}

func grpcName(names []string, i uint64) string {
	if i < uint64(len(names)) {
		return names[i]
	}
	return "Code(" + strconv.FormatUint(i, 10) + ")"
}
