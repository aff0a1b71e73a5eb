-- Makes wrk speak to a forward proxy: the target in absolute-form, Host naming the origin server, and
-- credentials if there are any.
function init(args)
    wrk.headers["Host"] = args[1]
    wrk.path = "http://" .. args[1] .. "/1024"
    if args[2] then
        wrk.headers["Proxy-Authorization"] = "Basic " .. args[2]
    end
end
