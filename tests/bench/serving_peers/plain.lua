-- The same request over and over. arguments: path, file that holds the body
local path, body = "", ""

function init(args)
  path = args[1]
  local file = io.open(args[2], "rb")
  body = file:read("*a")
  file:close()
  wrk.headers["content-type"] = "application/json"
end

function request() return wrk.format("POST", path, nil, body) end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,'
    .. '"bad":{"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect, e.read, e.write, e.timeout))
end
