-- Makes wrk speak to a forward proxy: the target in absolute-form, Host naming the origin server.
function init(args)
    wrk.headers["Host"] = args[1]
    wrk.path = "http://" .. args[1] .. "/1024"
end
