package egress

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// read takes the whole answer within its bounds and takes the credential out of it.
func (c *call) read(resp *http.Response) (Response, int, error) {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return Response{}, 0, fail(Broken, "the target switched protocols, which was not asked for")
	}
	if resp.ContentLength > c.maxBody {
		return Response{}, 0, fail(Unusable, "the answer has %d bytes; at most %d are taken", resp.ContentLength, c.maxBody)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBody+1))
	if err != nil {
		return Response{}, 0, fail(Broken, "read the answer: %v", err)
	}
	if int64(len(body)) > c.maxBody {
		return Response{}, 0, fail(Unusable, "the answer has more than %d bytes", c.maxBody)
	}
	return c.redact(resp, body)
}

// redact returns the answer without the credential. What cannot be searched is not returned: a target could otherwise hand the
// credential to the workflow, and so to the journal, in an encoding of its choice.
func (c *call) redact(resp *http.Response, body []byte) (Response, int, error) {
	if c.credential && len(body) > 0 && !searchable(resp.Header.Values("Content-Encoding")) {
		return Response{}, 0, fail(Unusable, "the answer's content encoding cannot be searched for the credential")
	}
	clean, places, err := c.redactor.Redact(body)
	if err != nil {
		return Response{}, 0, fail(Unusable, "the answer has %v", err)
	}
	answer := Response{Status: resp.StatusCode, Body: clean}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		for _, value := range resp.Header[name] {
			if name == "Content-Length" && places > 0 {
				value = strconv.Itoa(len(clean))
			}
			field := Header{c.redactor.Text(name), c.redactor.Text(value)}
			if field.Name != name || field.Value != value && name != "Content-Length" {
				places++
			}
			answer.Headers = append(answer.Headers, field)
		}
	}
	return answer, places, nil
}

func searchable(encodings []string) bool {
	for _, list := range encodings {
		for _, coding := range strings.Split(list, ",") {
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "", "identity", "gzip", "x-gzip", "deflate":
			default:
				return false
			}
		}
	}
	return true
}
