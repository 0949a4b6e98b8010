from led_agent.cli import main

if __name__ == "__main__":  # and not where a process that was started by this one imports it anew
    main()
